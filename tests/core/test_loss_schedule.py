"""When losses count."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import tiny
import torch
from torch import Tensor

from vco.api import IMAGE, Loss
from vco.loss_schedule import LossSchedule, mean_over

REPA = (
    "--loss", "repa,perceptual", "--loss.repa.hidden", "8", "--loss.repa.block", "1", "--loss.perceptual.weight", "1",
)  # fmt: skip


def test_the_weight_grows_linearly_and_then_stays() -> None:
    schedule = LossSchedule(weight=2.0, warmup_steps=4)
    assert [schedule.factor(step) for step in (0, 1, 3, 4, 100)] == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_the_loss_is_off_from_the_step_at_which_it_stops() -> None:
    schedule = LossSchedule(stop_after=3)
    assert [schedule.factor(step) for step in (0, 2, 3, 100)] == [1.0, 1.0, None, None]


def test_a_weight_of_zero_is_not_off() -> None:
    assert LossSchedule(weight=0.0).factor(0) == 0.0


def test_samples_in_the_interval_share_the_whole_mean() -> None:
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    torch.testing.assert_close(
        LossSchedule(t_low=0.25, t_high=0.5).sample_weights(t), torch.tensor([0.0, 2.5, 2.5, 0.0, 0.0])
    )
    assert torch.equal(LossSchedule().sample_weights(t), torch.ones(5))


def test_a_mean_over_no_rows_is_zero() -> None:
    assert torch.equal(mean_over(torch.zeros(3, dtype=torch.bool)), torch.zeros(3))


@pytest.mark.parametrize(
    "options", [{"t_low": 0.5, "t_high": 0.5}, {"t_high": 1.5}, {"t_low": 1.0}, {"stop_after": -1}]
)
def test_impossible_schedules_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(options))):
        LossSchedule(**options)


# ----------------------------------------------------------------------------------------------------- in the objective


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    training = tiny.prepare(tmp_path_factory.mktemp("run"), *REPA)
    tiny.scramble(training)
    return training


def configure(training: tiny.Training, **options: Any) -> None:
    """Gives the loss repa another schedule."""
    loss: Loss = training.objective.losses["repa"]
    loss.config = attrs.evolve(loss.config, **({"warmup_steps": 0, "stop_after": None, "t_low": 0.0} | options))


def losses_of(training: tiny.Training, rows: slice = slice(None), number: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Losses and image times of (a share of) the first batch."""
    inputs, draw = tiny.share(rows, *tiny.batch(training))
    training.objective.eval()  # running statistics, so that samples do not mix
    return training.objective(inputs, draw, number), draw.times[IMAGE]


def test_only_samples_in_the_interval_count(training: tiny.Training) -> None:
    configure(training)
    each = [losses_of(training, slice(i, i + 1)) for i in range(tiny.BATCH)]
    inside = [losses["repa"] for losses, t in each if t.item() >= 0.4]
    assert 0 < len(inside) < tiny.BATCH
    configure(training, t_low=0.4)
    torch.testing.assert_close(losses_of(training)[0]["repa"], torch.stack(inside).mean())


def test_equal_shares_average_to_the_whole_batch_although_some_samples_do_not_count(training: tiny.Training) -> None:
    configure(training, t_low=0.4)
    whole = losses_of(training)[0]["repa"]
    shares = [losses_of(training, slice(start, start + 10))[0]["repa"] for start in (0, 10)]
    torch.testing.assert_close((shares[0] + shares[1]) / 2, whole)


def test_the_scheduled_weight_enters_the_total(training: tiny.Training) -> None:
    configure(training, warmup_steps=10)
    first, later = (losses_of(training, number=number)[0] for number in (0, 9))
    torch.testing.assert_close(later["loss"] - first["loss"], 0.5 * (1 - 0.1) * first["repa"])


def test_a_loss_that_is_off_is_not_computed_but_its_parameters_get_a_gradient_of_zero(
    training: tiny.Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(training, stop_after=5)
    projector = training.objective.losses["repa"]
    monkeypatch.setattr(projector, "forward", lambda step: pytest.fail("computed"))  # pyright: ignore
    losses, _ = losses_of(training, number=5)
    assert "repa" not in losses
    gradients = torch.autograd.grad(losses["loss"], list(projector.parameters()))
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


# ---------------------------------------------------------------------------------------------------------- in training


def test_a_loss_that_stops_is_logged_as_its_mean_until_then(tmp_path: Path) -> None:
    tiny.train(tmp_path / "every", *REPA, "--loss.repa.stop-after", "3")
    tiny.train(tmp_path / "seldom", *REPA, "--loss.repa.stop-after", "3", "--train.log-every", "6")
    values = [line["repa"] for line in tiny.metrics(tmp_path / "every") if "repa" in line]
    assert len(values) == 3
    assert tiny.metrics(tmp_path / "seldom")[0]["repa"] == pytest.approx(sum(values) / 3)
