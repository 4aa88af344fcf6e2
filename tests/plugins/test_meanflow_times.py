"""MeanFlow: the times that it draws."""

from typing import Any

import pytest
import steps
import torch
from known_flows import CLASSES, TWO, make
from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition, Step
from vco.randomness import RowGenerator


def prepared(count: int = 4000, labels: Tensor | None = None, slots: range | None = None, **options: Any) -> Step:
    images = torch.zeros(count, 1, 1, 1)
    tokens = torch.ones(count, 1, 1)
    labels = torch.arange(count) % CLASSES if labels is None else labels
    step = steps.make_step(
        images,
        images,
        labels,
        {},
        clean={IMAGE: images, FEATURES: tokens},
        noise={IMAGE: images + 1, FEATURES: tokens * 0},
        specs=TWO,
        times={IMAGE: torch.full((count,), 0.5), FEATURES: torch.full((count,), 0.25)},
        condition=Condition(labels=labels),
        generator=RowGenerator((3,), slots or range(count)),
    )
    return make(TWO, **options).prepare(step)


def times_of(step: Step) -> tuple[Tensor, Tensor]:
    return step.times[IMAGE], step.condition.until[IMAGE]


def test_all_streams_have_one_time_and_one_end_and_are_noised_accordingly() -> None:
    step = prepared(50)
    t, until = times_of(step)
    assert ((t > 0) & (t <= until) & (until < 1)).all()
    assert torch.equal(step.times[FEATURES], t)
    assert torch.equal(step.condition.until[FEATURES], until)
    torch.testing.assert_close(step.noisy[IMAGE].flatten(), 1 - t)
    torch.testing.assert_close(step.noisy[FEATURES].flatten(), t)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_samples_goes_nowhere(share: float) -> None:
    t, until = times_of(prepared(instants=share))
    # five standard errors of 4,000 draws
    assert (t == until).float().mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / 4000) ** 0.5)


def test_the_times_are_two_sorted_draws_of_a_logit_normal_law() -> None:
    t, until = (x.logit() for x in times_of(prepared(instants=0.0, mean=0.4, std=1.5)))
    # the smaller and the larger of two normal numbers are 1 / sqrt(pi) standard deviations away from the mean
    assert (t.mean().item(), until.mean().item()) == pytest.approx((0.4 - 0.8463, 0.4 + 0.8463), abs=0.1)
    assert torch.cat([t, until]).std().item() == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize(("instant_time", "mean"), [("draw", 0.0), ("minimum", -0.5642)])
def test_the_time_of_samples_that_go_nowhere_is_one_draw_or_the_smaller_of_two(instant_time: str, mean: float) -> None:
    t, _ = times_of(prepared(instants=1.0, mean=0.0, std=1.0, instant_time=instant_time))
    assert t.logit().mean().item() == pytest.approx(mean, abs=0.08)  # five standard errors


def test_samples_without_label_may_be_kept_from_going_anywhere() -> None:
    labels = torch.arange(200) % 2 * CLASSES
    t, until = times_of(prepared(200, labels, null_gaps=False, instants=0.0))
    assert torch.equal(t == until, labels == CLASSES)
    t, until = times_of(prepared(200, labels, instants=0.0))
    assert (t < until).all()


def test_times_depend_on_the_slot_alone() -> None:
    whole = times_of(prepared(8))
    parts = [times_of(prepared(4, slots=range(start, start + 4))) for start in (0, 4)]
    for number in range(2):
        assert torch.equal(torch.cat([part[number] for part in parts]), whole[number])
