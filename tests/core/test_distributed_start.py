"""Several processes: what a launcher says, and who says what went wrong."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import tiny
from accelerate.state import AcceleratorState

from vco import distributed
from vco.cli import main_run
from vco.errors import TrainingStoppedError, UserError

Capture = pytest.CaptureFixture[str]
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """As in a new process, without a launcher; Accelerate writes to the environment too."""
    with patch.dict(os.environ):
        for name in NAMES:
            os.environ.pop(name, None)
        AcceleratorState._reset_state(reset_partial_state=True)
        yield
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    "told",
    ["WORLD_SIZE=abc", "WORLD_SIZE=", "WORLD_SIZE=0", "WORLD_SIZE=-1", "RANK=x", "RANK=3", "RANK=2 WORLD_SIZE=2"],
)
def test_numbers_that_no_launcher_gives_are_named(told: str, tmp_path: Path, capsys: Capture) -> None:
    for part in told.split():
        name, _, os.environ[name] = part.partition("=")
    assert main_run(tiny.argv(tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vco-run: the environment says RANK=")
    assert all(part in line for part in told.split())
    assert "torchrun" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "told",
    [
        "WORLD_SIZE=2", "WORLD_SIZE=2 RANK=0", "WORLD_SIZE=2 RANK=0 LOCAL_RANK=0", "LOCAL_RANK=0", "LOCAL_RANK=x",
        "WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=x",
    ],
)  # fmt: skip
def test_processes_that_cannot_meet_are_one_sentence(told: str, tmp_path: Path, capsys: Capture) -> None:
    for part in told.split():
        name, _, os.environ[name] = part.partition("=")
    assert main_run(tiny.argv(tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vco-run: the processes cannot meet (")
    assert "torchrun" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # ten seconds, the shortest timeout
def test_a_process_that_waits_for_another_one_gives_up(tmp_path: Path, capsys: Capture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    os.environ.update(zip(NAMES, ("0", "0", "2", "127.0.0.1", str(port)), strict=True))
    assert main_run(tiny.argv(tmp_path / "run", "--train.timeout", "10")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("vco-run: the processes cannot meet (")


@pytest.mark.parametrize(
    ("all_said", "sentence"),
    [
        (["", "lost", "lost", "full"], "process 1: lost\nprocess 3: full"), (["lost", "lost", "lost"], "lost"),
        (["lost", "", "full"], "lost\nprocess 2: full"),
    ],
)  # fmt: skip
def test_what_some_processes_cannot_do_is_raised_in_all_of_them(
    all_said: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "gather_object", lambda mine: all_said)
    with pytest.raises(UserError) as caught, distributed.errors_shared():
        pass
    assert str(caught.value) == sentence


def test_a_failure_of_training_keeps_its_status() -> None:
    with pytest.raises(TrainingStoppedError, match="no space"), distributed.errors_shared():
        raise TrainingStoppedError("no space")


# ------------------------------------------------------------------------------------------------------- two processes


def said(folder: Path, *options: str) -> list[str]:
    """What two processes say of a run that fails."""
    done = tiny.launch(*tiny.argv(folder, "--plugin", "odd_plugin", *options))
    assert done.returncode != 0
    return [line.removeprefix("vco-run: ") for line in done.stderr.splitlines() if line.startswith("vco-run: ")]


@pytest.mark.slow  # as all of the following
def test_what_one_process_cannot_read_it_says_with_its_number(tmp_path: Path) -> None:
    options = ("--data", "spoilt-for-one", *tiny.ONE_STREAM, "--metric", "none", "--train.samples-per-class", "0")
    (line,) = said(tmp_path, *options, "--train.batch-size", "4", "--train.steps", "40")
    assert line == "process 1: image 17 cannot be read; replace it"
    steps = [line["step"] for line in tiny.metrics(tmp_path)]
    assert tiny.tensors(tmp_path, steps[-1])  # all steps before that were saved
    assert len(steps) > 1


@pytest.mark.slow
def test_what_all_have_met_is_said_once(tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path / "run", "--train.steps", "2")) == 0
    (line,) = said(tmp_path / "run", "--train.steps", "1")
    assert line.startswith(f"the run in {tmp_path / 'run'} is already at step 2")


@pytest.mark.slow
def test_a_parameter_without_a_gradient_is_said_once_and_not_by_pytorch(tmp_path: Path) -> None:
    (line,) = said(tmp_path, "--loss", "idle-head")
    assert "no gradient reaches the parameter head.weight of loss idle-head" in line


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    (line,) = said(tmp_path)
    assert line.startswith("training stopped: cannot write checkpoint")
