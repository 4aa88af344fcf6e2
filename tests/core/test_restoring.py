"""A checkpoint that is whole but not this run's is refused before anything is changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import tiny
import torch

from vco.errors import UserError
from vco.storage import checkpoint

STEPS = ("--train.steps", "2", *tiny.ONE_STREAM)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny.train(folder, *STEPS)
    return folder


def without(tensors: dict[str, Any], stem: str) -> None:
    del tensors[stem]


def lacking_a_name(tensors: dict[str, Any]) -> None:
    tensors["ema-0"] = {n: v for n, v in tensors["ema-0"].items() if n != next(iter(tensors["ema-0"]))}


def of_a_shape_that_broadcasts(tensors: dict[str, Any]) -> None:
    name = next(n for n, v in tensors["ema-1"].items() if v.ndim == 2)
    tensors["ema-1"] = tensors["ema-1"] | {name: tensors["ema-1"][name][:1]}


def memory_of_a_shape(tensors: dict[str, Any]) -> None:
    name = next(n for n, v in tensors["optimizer"].items() if v.ndim == 2)
    tensors["optimizer"] = tensors["optimizer"] | {name: torch.zeros(1, 1)}


def memory_of_nobody(tensors: dict[str, Any]) -> None:
    tensors["optimizer"] = tensors["optimizer"] | {"backbone.nothing/exp_avg": torch.zeros(2)}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda tensors: without(tensors, "optimizer"), "imported or exported, which cannot go on; begin a new run"),
        (lambda tensors: without(tensors, "ema-1"), "has another running average 1 than this run"),
        (lacking_a_name, "has another running average 0 than this run"),
        (of_a_shape_that_broadcasts, "has another running average 1 than this run"),
        (memory_of_a_shape, r"holds the optimizer's state of .* in another shape \(\(1, 1\)\)"),
        (memory_of_nobody, "the optimizer's state of backbone.nothing, which this run does not train"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    spoil: Callable[[dict[str, Any]], None], sentence: str, trained: Path, tmp_path: Path
) -> None:
    saved = checkpoint.load_step(trained / "checkpoints", 2)
    tensors: dict[str, Any] = {stem: dict(part) for stem, part in saved.tensors.items()}
    spoil(tensors)
    checkpoint.write(tmp_path / "checkpoints", attrs.evolve(saved, tensors=tensors))
    training = tiny.not_begun(tmp_path, *STEPS)
    before = {name: value.clone() for name, value in training.objective.state_dict().items()}
    with pytest.raises(UserError, match=sentence):
        training.begin()
    tiny.assert_same(dict(training.objective.state_dict()), before)


def test_the_checkpoint_of_another_seed_is_refused(trained: Path, tmp_path: Path) -> None:
    saved = checkpoint.load_step(trained / "checkpoints", 2)
    checkpoint.write(tmp_path / "checkpoints", attrs.evolve(saved, state={**saved.state, "seed": 7}))
    with pytest.raises(UserError, match="belongs to a run with seed 7, and this one has seed 0; put back its own"):
        tiny.prepare(tmp_path, *STEPS)
