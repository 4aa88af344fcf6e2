"""cost.json: parameters of each component, and the arithmetic of training with one image."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from vco.cli import main_run
from vco.objective import Objective
from vco.training.cost import cost_of, training_flops


def flops(training: tiny.Training, images: int = tiny.BATCH) -> float | None:
    return training_flops(training.run, training.images, list(range(images)), training.device)


def test_the_arithmetic_is_three_times_that_of_the_forward_pass(tmp_path: Path) -> None:
    """Backward, a linear layer needs a product for its weight and one for its input."""
    training = tiny.prepare(tmp_path, *tiny.ONE_STREAM)
    linear = 0

    def note(module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal linear
        assert isinstance(module, nn.Linear)
        linear += 2 * out.numel() * module.in_features

    handles = [m.register_forward_hook(note) for m in training.objective.modules() if isinstance(m, nn.Linear)]
    training.objective(*tiny.batch(training))
    for handle in handles:
        handle.remove()
    counted = flops(training)
    assert counted is not None
    # beside linear layers there is attention, of few tokens here; and the first layers pass no gradient to their input
    assert 2.5 < counted / (linear / tiny.BATCH) < 4


def test_it_is_the_same_for_every_batch(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path, *tiny.ONE_STREAM)
    assert flops(training, 10) == pytest.approx(flops(training, 20))


def test_counting_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    tiny.train(tmp_path / "plain")
    training = tiny.prepare(tmp_path / "counted")
    training.note_cost()
    assert training.train() == 0
    tiny.assert_same(tiny.tensors(tmp_path / "counted"), tiny.tensors(tmp_path / "plain"))
    assert tiny.losses(tmp_path / "counted") == tiny.losses(tmp_path / "plain")


def test_what_cannot_be_counted_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Objective, *args: object) -> None:
        raise ValueError("no")

    training = tiny.prepare(tmp_path)
    monkeypatch.setattr(Objective, "forward", broken)
    cost = cost_of(training.run, training.images, [0, 1], training.device)
    assert cost["training_flops_per_image"] is None
    assert cost["parameters"]["backbone"] > 1000


def test_a_run_notes_its_cost_once(tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.steps", "1", "--metric", "none")) == 0
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["training_flops_per_image"] > 10_000
    assert set(cost["parameters"]) == {"backbone", "adapter"}
    assert set(cost["frozen_parameters"]) == {"features.digits-vit"}
    (tmp_path / "cost.json").write_text("{}")
    assert main_run(tiny.argv(tmp_path, "--train.steps", "2", "--metric", "none")) == 0
    assert (tmp_path / "cost.json").read_text() == "{}"


@pytest.mark.parametrize("options", [("--loss", "meanflow"), (*tiny.TOY, "--loss", "none", "--data", "captioned")])
def test_it_is_counted_for_odd_losses_and_data_too(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert flops(tiny.prepare(tmp_path, *options)) is not None


def test_counting_leaves_no_gradient_behind_in_a_process_that_learns(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path, "--adapter", "rms", "--loss", "none", "--process", "learned")
    cost = cost_of(training.run, training.images, range(4), training.device)
    assert cost["training_flops_per_image"]
    assert [name for name, value in training.objective.named_parameters() if value.grad is not None] == []
