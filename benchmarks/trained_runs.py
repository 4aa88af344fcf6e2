"""Tiny trainings as processes of their own: forked from this one, or started by torchrun (used by kills.py)."""

import atexit
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import torch

from vco.cli import main_run

SIZES: Final = {
    "preset": "digits", "backbone.width": 16, "backbone.depth": 2, "backbone.heads": 2, "backbone.context-start": 1,
    "train.batch-size": 20, "train.samples-per-class": 2, "train.fit-samples": 60, "train.warmup-steps": 2,
    "train.log-every": 1, "train.sample-every": 1_000_000, "train.timeout": 30, "sample.steps": 1,
    "sample.grid-rows": 1, "metric": "none", "mixed-precision": "fp32", "backbone.dropout": 0.1,
}  # fmt: skip
"""The default run at the smallest size, with all that is saved: adapter, averages, optimizer."""


def options(folder: Path, steps: int, *more: str, every: int) -> list[str]:
    """The command line of a run of some steps with a checkpoint every so many."""
    given = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    return [
        *given, "--output-dir", str(folder), "--train.steps", str(steps), "--train.checkpoint-every", str(every), *more,
    ]  # fmt: skip


@attrs.frozen
class Run:
    """Processes that train one run, each in a session of its own with its readers."""

    pids: list[int]

    def alive(self) -> bool:
        """Whether any of them runs."""
        return any(self._status(pid) is None for pid in self.pids)

    def kill(self, ranks: Sequence[int]) -> None:
        """Kills some of them, and their readers; asks the others to end, as a launcher does."""
        for rank in ranks:
            os.killpg(self.pids[rank], signal.SIGKILL)
        for rank in set(range(len(self.pids))) - set(ranks):
            if self._status(self.pids[rank]) is None:
                os.kill(self.pids[rank], signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Waits for all of them; raises `TimeoutError` after so many seconds."""
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > until:
                self.kill(range(len(self.pids)))
                raise TimeoutError(f"processes {self.pids} have not ended in {seconds:.0f} s")
            time.sleep(0.005)

    def left(self, seconds: float) -> int:
        """How many of them have readers that are left over after so many seconds at most."""
        until = time.monotonic() + seconds
        while (left := sum(_is_group(pid) for pid in self.pids)) and time.monotonic() < until:
            time.sleep(0.02)
        return left

    def _status(self, pid: int) -> int | None:
        """The exit status of a process that has ended."""
        if pid not in _ENDED:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                _ENDED[pid] = status
        return _ENDED.get(pid)


_ENDED: dict[int, int] = {}


def _is_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def warm_up(folder: Path) -> None:
    """Imports all that a run needs, so that forked ones begin at once."""
    with contextlib.redirect_stdout(io.StringIO()):
        main_run([*options(folder, 1, every=1), "--dry-run"])


def begin(folder: Path, count: int, argv: Sequence[str]) -> Run:
    """Forks processes that train: all that takes long to import has been imported here; they say nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sys.stdout.flush()
    pids: list[int] = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            _train(folder.with_suffix(".log"), rank, count, port, argv)
        pids.append(pid)
    for pid in pids:  # also here, as it must be done before anybody kills the group
        try:
            os.setpgid(pid, pid)
        except OSError:  # the child was faster
            continue
    return Run(pids)


def _train(log: Path, rank: int, count: int, port: int, argv: Sequence[str]) -> None:
    """What a forked process does; it does not return."""
    try:
        atexit._clear()  # what the parent wants done  # pyright: ignore[reportPrivateUsage]
        os.setpgid(0, 0)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(said, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
        if count > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ |= {name: str(value) for name, value in place.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        status = main_run(argv)
    except BaseException:
        traceback.print_exc()
        status = 70
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def launch(folder: Path, count: int, argv: Sequence[str]) -> tuple["subprocess.Popen[str]", Callable[[], list[int]]]:
    """Starts torchrun; returns it, and what tells the process ids of those that train."""
    module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "vco.cli"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(
        [sys.executable, *module, *argv], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=_heed_ctrl_c,
    )  # fmt: skip
    return launcher, lambda: [pid for pid in processes_of(folder) if pid != launcher.pid]


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore


def processes_of(folder: Path) -> list[int]:
    """The processes whose command line names a run's folder."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(int(process.name))
    return found


def gone(folder: Path, seconds: float) -> int:
    """How many processes of a run are left after so many seconds at most."""
    until = time.monotonic() + seconds
    while (left := len(processes_of(folder))) and time.monotonic() < until:
        time.sleep(0.05)
    return left
