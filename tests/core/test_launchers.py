"""Launchers: each one's processes train one run together, and those that do not know each other are refused."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import tiny

from vco.cli import main_run
from vco.errors import UserError
from vco.launched import process_count

Capture = pytest.CaptureFixture[str]
RUN = "torch.distributed.run"
TOGETHER = {"RANK": "1", "WORLD_SIZE": "2"}
ONE_OF_ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        (TOGETHER, 2),
        (TOGETHER | {"GROUP_WORLD_SIZE": "1"}, 2),
        (TOGETHER | {"GROUP_WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"}, 2),  # srun torchrun --nnodes 2
        (TOGETHER | {"GROUP_WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "1"}, 2),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, 1),  # the batch script itself
        ({"SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": ""}, 1),
        (ONE_OF_ACCELERATE, 1),
        (ONE_OF_ACCELERATE | TOGETHER | {"MASTER_ADDR": "127.0.0.1"}, 2),
    ],
)
def test_what_a_launcher_says_is_counted(environment: Mapping[str, str], count: int) -> None:
    assert process_count(environment) == count


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"},
            "srun has started 8 processes that do not know each other",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun has started 2 processes that do not know each other"),
        ({"PMI_SIZE": "2"}, "mpirun has started 2 processes"),
        ({"MV2_COMM_WORLD_SIZE": "4"}, "mpirun has started 4 processes"),
        (
            TOGETHER | {"GROUP_WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "3"},
            "srun has started 3 launchers that do not know each other.* give each of them --nnodes 3",
        ),
        (ONE_OF_ACCELERATE | {"MASTER_ADDR": "127.0.0.1"}, "accelerate launch was asked for several processes"),
    ],
)
def test_processes_that_do_not_know_each_other_are_refused(environment: Mapping[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        process_count(environment)


def test_tasks_of_srun_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task in ("0", "1"):
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
        monkeypatch.setenv("SLURM_PROCID", task)
        monkeypatch.setenv("SLURM_LOCALID", task)
        assert main_run(tiny.argv(tmp_path / "run")) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("vco-run: srun has started 2 processes that do not know each other")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------ whole launchers

SHORT = ("--metric", "none", "--train.steps", "2")


def start(launcher: Sequence[str], folder: Path, told: Mapping[str, str]) -> "subprocess.Popen[str]":
    """Starts a launcher of a tiny run on the CPU, with further variables in its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "ACCELERATE_"))}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **told}
    command = [sys.executable, "-m", *launcher, "-m", "vco.cli", *tiny.argv(folder, *SHORT)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trained_by(folder: Path) -> int:
    """The number of processes that have trained a run, which took two steps."""
    (session,) = tiny.lines(folder / "sessions.jsonl")
    assert [line["step"] for line in tiny.metrics(folder)] == [1, 2]
    return session["processes"]


@pytest.mark.slow  # two processes, as all below
def test_accelerate_launch_starts_processes_that_train_together(tmp_path: Path) -> None:
    launcher = ["accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
    run = start([*launcher, "--num_machines", "1", "--mixed_precision", "no"], tmp_path, {"ACCELERATE_USE_CPU": "true"})
    _, said = run.communicate(timeout=240)
    assert run.returncode == 0, said
    assert trained_by(tmp_path) == 2


@pytest.mark.slow
def test_the_one_process_that_accelerate_starts_in_place_of_two_is_refused(tmp_path: Path) -> None:
    launcher = ["accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    run = start(launcher, tmp_path / "run", {})
    _, said = run.communicate(timeout=240)
    assert run.returncode != 0
    assert "vco-run: accelerate launch was asked for several processes and has started one" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_nodes_train_together_and_without_a_meeting_place_are_refused(tmp_path: Path) -> None:
    """As `srun torchrun` starts them: one launcher on each node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"ACCELERATE_USE_CPU": "true", "SLURM_STEP_NUM_TASKS": "2"}
    meeting = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "9", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    nodes = [
        start([RUN, *meeting, "--nproc-per-node", "1"], tmp_path / "run", told | {"SLURM_PROCID": str(task)})
        for task in range(2)
    ]
    said = [node.communicate(timeout=240)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert trained_by(tmp_path / "run") == 2

    alone = start([RUN, "--standalone", "--nproc-per-node", "2"], tmp_path / "alone", told)
    _, sentence = alone.communicate(timeout=240)
    assert alone.returncode != 0
    assert "vco-run: srun has started 2 launchers that do not know each other" in sentence
    assert not (tmp_path / "alone").exists()
