"""Signals: every way of being told to stop saves first, and only an impatient person can prevent it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from vco.cli import main_run
from vco.storage.files import lock
from vco.training import stopping
from vco.training.loop import Training
from vco.training.stopping import ASKING, PATIENCE, StopFlag, requeue

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def flag() -> Iterator[StopFlag]:
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT
    flag = StopFlag(10)
    try:
        yield flag
    finally:
        flag.close()
        signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("number", ASKING)
def test_every_signal_that_asks_is_noted(number: signal.Signals, flag: StopFlag) -> None:
    assert flag.agreed() == 0
    signal.raise_signal(number)
    assert flag.agreed() == number


@pytest.mark.parametrize("second", ASKING)
def test_a_second_signal_at_once_changes_nothing(second: signal.Signals, flag: StopFlag) -> None:
    signal.raise_signal(signal.SIGTERM)
    for _ in range(3):
        signal.raise_signal(second)
    assert flag.agreed() == signal.SIGTERM


def test_a_second_ctrl_c_ends_the_run_only_after_a_moment(flag: StopFlag, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(stopping, "_say", said.append)
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    signal.raise_signal(signal.SIGINT)
    now[0] += PATIENCE - 0.1
    signal.raise_signal(signal.SIGINT)
    assert flag.agreed() == signal.SIGINT
    (sentence,) = said
    assert f"Ctrl-C again after {PATIENCE:.0f} s ends without saving" in sentence
    now[0] += 0.2
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_is_ignored_stays_so() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        flag = StopFlag(10)
        signal.raise_signal(signal.SIGHUP)
        assert flag.agreed() == 0
        flag.close()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_two_terms_20_milliseconds_apart_do_not_break_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    step, save = Training._one_step, Training._save

    def signalled(self: Training, *given: object) -> object:
        if self.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *given)  # pyright: ignore[reportArgumentType]

    def slow(self: Training, *given: object) -> None:
        for _ in range(3):
            time.sleep(0.02)
            signal.raise_signal(signal.SIGTERM)
        save(self, *given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Training, "_one_step", signalled)
    monkeypatch.setattr(Training, "_save", slow)
    assert main_run(tiny.argv(tmp_path, "--metric", "none")) == 128 + signal.SIGTERM
    assert "stopped by a signal after step 3" in capsys.readouterr().out
    assert tiny.tensors(tmp_path, 3)


# ---------------------------------------------------------------------------------------------------------------- SLURM


def scontrol(folder: Path, status: int) -> None:
    """A program of this name that notes what it was asked for."""
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\necho "no such job" >&2\nexit {status}\n')
    program.chmod(0o755)


def test_a_job_whose_time_is_up_goes_back_into_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(tmp_path, 0)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert requeue(signal.SIGTERM) == ""
    assert not (tmp_path / "asked").exists()
    assert requeue(signal.SIGUSR1) == "job 77 is back in the queue and goes on from here"
    assert (tmp_path / "asked").read_text() == "requeue 77\n"


def test_a_queue_that_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(tmp_path, 1)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert requeue(signal.SIGUSR2) == "job 77 could not be put back into the queue: no such job"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert requeue(signal.SIGUSR2) == ""


# ------------------------------------------------------------------------------------------------------- whole programs


def start(folder: Path, *options: str, processes: int = 1) -> "subprocess.Popen[str]":
    """Starts a run in a session of its own and waits for its third step."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    module = [*(launcher if processes > 1 else []), "-m", "vco.cli"]
    command = [sys.executable, *module, *tiny.argv(folder, "--metric", "none", "--train.steps", "4000", *options)]
    devices = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | devices,
    )  # fmt: skip
    until = time.monotonic() + 240
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 3):
        if run.poll() is not None or time.monotonic() > until:
            run.kill()
            pytest.fail(f"no third step: {run.communicate()[1]}")
        time.sleep(0.02)
    return run


def ranks(folder: Path) -> dict[int, int]:
    """Rank -> process id of the processes that train into a folder."""
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            lines = (process / "environ").read_bytes().split(b"\0")
            environment = {line.partition(b"=")[0]: line.partition(b"=")[2] for line in lines}
        except (OSError, ValueError):
            continue
        if str(folder).encode() in command and b"torch.distributed.run" not in command and b"RANK" in environment:
            found[int(environment[b"RANK"])] = int(process.name)
    return found


def wait_for_nobody(folder: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while ranks(folder):
        assert time.monotonic() < until, f"processes {ranks(folder)} are left"
        time.sleep(0.1)


@pytest.mark.slow  # two processes
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_and_slurms_signal_save(tmp_path: Path, number: signal.Signals) -> None:
    run = start(tmp_path)
    run.send_signal(number)
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 128 + number
    assert "stopped by a signal after step" in out
    assert any((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow  # three processes
def test_signals_to_every_process_and_the_launcher_save(tmp_path: Path) -> None:
    run = start(tmp_path, processes=2)
    os.killpg(run.pid, signal.SIGTERM)  # as a scheduler does; the launcher forwards its own besides
    run.communicate(timeout=120)
    assert any((tmp_path / "checkpoints").iterdir())
    wait_for_nobody(tmp_path, 20)


@pytest.mark.slow  # three processes
def test_processes_whose_launcher_dies_save_and_end(tmp_path: Path) -> None:
    run = start(tmp_path, processes=2)
    assert set(ranks(tmp_path)) == {0, 1}
    run.kill()
    wait_for_nobody(tmp_path, 60)
    run.communicate(timeout=60)
    assert any((tmp_path / "checkpoints").iterdir())
    lock(tmp_path).close()  # nobody holds it any more


@pytest.mark.slow  # three processes, and two timeouts
def test_a_process_that_hangs_is_named(tmp_path: Path) -> None:
    run = start(tmp_path, "--train.timeout", "10", processes=2)
    os.kill(ranks(tmp_path)[1], signal.SIGSTOP)
    _, error = run.communicate(timeout=120)
    assert "process 1 is stopped, lost or hung (no sign of life" in error
    wait_for_nobody(tmp_path, 20)


def test_a_folder_in_use_is_refused_with_who_uses_it(tmp_path: Path, capsys: Capture) -> None:
    held = lock(tmp_path)
    code = f"from pathlib import Path; from vco.storage.files import lock; lock(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    held.close()
    assert f"another run is writing to {tmp_path} (process {os.getpid()} on " in done.stderr
