"""All processes go on from the same checkpoint, or none of them does."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from vco.errors import UserError
from vco.storage import checkpoint
from vco.storage.checkpoint import Checkpoint
from vco.training import agreeing
from vco.training.agreeing import agreed_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoints of steps 10 and 20, as process 0 sees them."""
    for step in (10, 20):
        checkpoint.save(tmp_path / "checkpoints", saved(step), keep=5)
    return tmp_path / "checkpoints"


def saved(step: int, value: float = 0.0) -> Checkpoint:
    return Checkpoint(step=step, tensors={"model": {"w": torch.full((3,), step + value)}}, state={})


def decide(main: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Checkpoint | None, Checkpoint | None]:
    """What both processes go on from, each with a folder of its own; raises what the second one raises."""
    sent: list[Any] = []

    def broadcast(decision: list[Any]) -> None:
        if sent:
            decision[:] = sent[0]
        else:
            sent.append(list(decision))

    monkeypatch.setattr(agreeing, "broadcast_object_list", broadcast)
    first: Any
    try:
        first = agreed_checkpoint(main, 0, 2, print)
    except UserError as error:
        first = error
    second = agreed_checkpoint(other, 1, 2, print)
    return first, second


def test_both_go_on_from_the_newest_of_process_0(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = decide(folder, folder, monkeypatch)
    assert first is not None
    assert second is not None
    assert first.step == second.step == 20
    twin = Path(shutil.copytree(folder, tmp_path / "twin"))
    checkpoint.save(twin, saved(30), keep=9)  # newer ones of its own do not matter
    _, second = decide(folder, twin, monkeypatch)
    assert second is not None
    assert second.step == 20


def test_without_any_checkpoint_both_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decide(tmp_path / "none", tmp_path / "none", monkeypatch) == (None, None)


def test_a_process_that_does_not_see_it_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="process 0 goes on from step 20, and here there is no checkpoint of step 20"):
        decide(folder, tmp_path / "own", monkeypatch)


def test_another_checkpoint_of_the_same_step_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path / "own", saved(20, 0.5), keep=9)
    with pytest.raises(UserError, match=r"step 20 has another model.safetensors here than for process 0; every"):
        decide(folder, tmp_path / "own", monkeypatch)


def test_all_hear_of_it_if_process_0_finds_damaged_ones_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.glob("step-*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        decide(folder, folder, monkeypatch)


def test_a_run_goes_on_with_it(tmp_path: Path) -> None:
    tiny.train(tmp_path, "--train.steps", "2")
    assert tiny.prepare(tmp_path, "--train.steps", "3").step == 2
