"""MeanFlow: its identity on flows that are known, and what is regressed to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import attrs
import pytest
import steps
import torch
from known_flows import (
    CLASSES,
    TWO,
    column,
    linear,
    make,
    make_step,
    network_of,
    normal_data,
    regressed_to,
    slopes_of,
    two_streams,
    velocities,
)
from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition, Denoised, Network, Step, Streams, StreamSpec, Times
from vco_plugins.losses.meanflow import MeanFlow, Question, along_the_flow, guided_velocity, null_branch

# ------------------------------------------------------------------------------------------------------ golden numbers


def one_sample(network: Network, t: float = 0.4, until: float = 0.9, **changes: Any) -> Step:
    return make_step({IMAGE: (1.0,)}, {IMAGE: (-0.5,)}, (t,), (until,), network, **changes)


def test_golden_numbers_of_a_linear_mean_velocity() -> None:
    step = one_sample(network_of(linear))
    assert step.noisy[IMAGE].item() == pytest.approx(0.1)
    assert velocities(step)[IMAGE].item() == pytest.approx(1.5)
    assert step.denoised.velocity[IMAGE].item() == pytest.approx(0.27)
    assert slopes_of(step)[IMAGE] == pytest.approx([0.85])
    assert regressed_to(step)[IMAGE] == pytest.approx([1.925])


def test_the_derivative_goes_along_any_velocity_it_is_given() -> None:
    step = one_sample(network_of(linear))
    assert slopes_of(step, {IMAGE: column(IMAGE, 1.2)})[IMAGE] == pytest.approx([0.7])


def test_the_true_mean_velocity_of_normal_data_obeys_the_identity() -> None:
    step = one_sample(network_of(normal_data))
    noisy, times, until = ({IMAGE: torch.tensor(x, dtype=torch.float64)} for x in ([[[[-0.3]]]], [0.4], [0.9]))
    velocity = {IMAGE: torch.tensor([[[[1.425]]]], dtype=torch.float64)}
    asked = Question(noisy, times, replace(step.condition, until=until))
    slope = along_the_flow(step.quiet, asked, velocity)[IMAGE].item()
    u = step.quiet(noisy, times, asked.condition).velocity[IMAGE].item()
    assert slope == pytest.approx(-0.8209760495, abs=1e-10)
    assert u == pytest.approx(1.0145119752, abs=1e-10)
    assert u == pytest.approx(1.425 + 0.5 * slope, abs=1e-12)


@pytest.mark.parametrize(
    ("t", "until", "u", "slope", "v", "compound", "target"),
    [
        (0.4, 0.9, 0.283333, -0.611111, 1.5, 0.588889, 1.194444),
        (0.97, 0.99, -3.65, -7.0, 0.9, -3.51, 0.76),  # beyond t = 0.95, where the divisor is constant
    ],
)
def test_golden_numbers_of_a_network_that_predicts_clean_images(
    t: float, until: float, u: float, slope: float, v: float, compound: float, target: float
) -> None:
    step = one_sample(network_of(linear, "clean"), t, until)
    near: Any = {"rel": 1e-5}  # six digits are given, and float32
    assert step.denoised.velocity[IMAGE].item() == pytest.approx(u, **near)
    assert velocities(step)[IMAGE].item() == pytest.approx(v, **near)
    assert slopes_of(step)[IMAGE] == pytest.approx([slope], **near)
    assert u - (until - t) * slope_of_one(step) == pytest.approx(compound, **near)
    assert regressed_to(step)[IMAGE] == pytest.approx([target], **near)


def slope_of_one(step: Step) -> float:
    return slopes_of(step)[IMAGE][0]


def test_golden_numbers_of_two_streams_that_move_together() -> None:
    clean, noise = {IMAGE: (1.0,), FEATURES: (0.5,)}, {IMAGE: (-0.5,), FEATURES: (1.0,)}
    step = make_step(clean, noise, (0.4,), (0.9,), network_of(two_streams))
    answer, slopes, target = step.denoised.velocity, slopes_of(step), regressed_to(step)
    assert (answer[IMAGE].item(), answer[FEATURES].item()) == pytest.approx((0.47, -0.01), abs=1e-6)
    assert (slopes[IMAGE], slopes[FEATURES]) == (pytest.approx([0.725]), pytest.approx([-0.25]))
    assert (target[IMAGE], target[FEATURES]) == (pytest.approx([1.8625]), pytest.approx([-0.625]))


@pytest.mark.parametrize(
    ("omega", "kappa", "expected"), [(1.0, 0.5, 1.7), (0.2, 0.92, 1.308), (3.0, 0.0, 2.9), (1.0, 0.0, 1.5)]
)
def test_golden_numbers_of_guidance(omega: float, kappa: float, expected: float) -> None:
    v, conditional, null = torch.tensor([1.5]), torch.tensor([1.2]), torch.tensor([0.8])
    assert guided_velocity(v, conditional, null, omega, kappa).item() == pytest.approx(expected)


@pytest.mark.parametrize(("apart", "loss"), [(0.5, 0.96154), (2.0, 0.99751)])
def test_golden_numbers_of_the_adaptive_weight(apart: float, loss: float) -> None:
    step = one_sample(network_of(lambda noisy, t, gap: {IMAGE: torch.full_like(t, 1.5 + apart)}), 0.4, 0.4)
    assert make()(step)[IMAGE].item() == pytest.approx(loss, abs=1e-5)


def test_the_error_is_summed_over_a_sample() -> None:
    spec = {IMAGE: StreamSpec(shape=(1, 2, 2))}
    x, t = torch.ones(3, 1, 2, 2), {IMAGE: torch.full((3,), 0.5)}
    step = steps.make_step(
        x,
        x,
        torch.zeros(3, dtype=torch.int64),
        {},
        times=t,
        noisy={IMAGE: 0.5 * x},
        specs=spec,
        condition=Condition(labels=torch.zeros(3, dtype=torch.int64), until=t),
        denoised=Denoised(velocity={IMAGE: torch.tensor([1.5, 2.0, 1.0]).view(-1, 1, 1, 1).expand_as(x)}),
    )
    assert make(power=0.0)(step)[IMAGE].tolist() == pytest.approx([4 * 0.25, 4.0, 0.0])
    assert make(power=0.5)(step)[IMAGE].tolist() == pytest.approx([1 / 1.01**0.5, 4 / 4.01**0.5, 0.0])


# ------------------------------------------------------------------------------------------------ what is regressed to


def test_samples_that_go_nowhere_learn_the_velocity_and_nothing_is_asked_for_that() -> None:
    step = one_sample(network_of(linear), 0.4, 0.4, quiet=steps.never_asked)
    assert regressed_to(step)[IMAGE] == pytest.approx([1.5])


def batch_of(network: Network, **changes: Any) -> Step:
    clean, noise = {IMAGE: (1.0, -0.3, 0.4, 0.8)}, {IMAGE: (-0.5, 1.2, 0.1, -2.0)}
    return make_step(clean, noise, (0.4, 0.2, 0.5, 0.7), (0.9, 0.2, 0.6, 0.7), network, **changes)


def rows_of(step: Step, rows: list[int]) -> Step:
    def some(streams: Streams) -> Streams:
        return {s: x[rows] for s, x in streams.items()}

    return attrs.evolve(
        step,
        labels=step.labels[rows],
        condition=step.condition.map(lambda tensor: tensor[rows]),
        denoised=Denoised(velocity=some(step.denoised.velocity)),
        **{name: some(getattr(step, name)) for name in ("times", "clean", "noise", "noisy", "target")},
    )


@pytest.mark.parametrize("options", [{}, {"kappa": 0.5}])
def test_a_sample_s_loss_depends_on_that_sample_alone(options: dict[str, Any]) -> None:
    def network(noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        answer = network_of(linear)(noisy, times, condition)
        shift = (condition.labels / 10).view(-1, 1, 1, 1)
        return Denoised(velocity={s: v + shift for s, v in answer.velocity.items()})

    step = batch_of(network, told={"labels": torch.tensor([3, 0, CLASSES, 7])})
    whole = make(**options)(step)[IMAGE]
    for row in range(4):
        torch.testing.assert_close(make(**options)(rows_of(step, [row]))[IMAGE], whole[row : row + 1])


class Branches:
    """A network that says 1.2 with a label and 0.8 without, and remembers what it was asked."""

    def __init__(self) -> None:
        self.conditions: list[Condition] = []

    def __call__(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        self.conditions.append(condition)
        answer = torch.where(condition.labels == CLASSES, 0.8, 1.2)
        return Denoised(velocity={s: answer.view(-1, *[1] * (x.ndim - 1)).expand_as(x) for s, x in noisy.items()})


def guided(told: Mapping[str, Any] | None = None, **options: Any) -> tuple[list[float], list[Condition]]:
    """What four samples of velocity 1.5 at times 0.1, 0.3, 0.6 and 0.9 are regressed to, and what was asked."""
    quiet, t = Branches(), (0.1, 0.3, 0.6, 0.9)
    clean, noise = {IMAGE: (1.0,) * 4, FEATURES: (0.0,) * 4}, {IMAGE: (-0.5,) * 4, FEATURES: (0.0,) * 4}
    step = make_step(clean, noise, t, t, Branches(), quiet, told=told or {})
    return regressed_to(step, **options)[IMAGE], quiet.conditions


def test_guidance_is_part_of_what_is_learnt() -> None:
    target, asked = guided(kappa=0.5)
    assert target == pytest.approx([1.7] * 4)
    assert all(condition.until == {} for condition in asked)  # both branches are asked about one time
    assert guided(omega=3.0)[0] == pytest.approx([2.9] * 4)


def test_without_guidance_no_branch_is_evaluated() -> None:
    target, asked = guided()
    assert target == pytest.approx([1.5] * 4)
    assert asked == []


def test_guidance_has_an_interval_that_includes_its_ends() -> None:
    assert guided(kappa=0.5, guided_low=0.3, guided_high=0.6)[0] == pytest.approx([1.5, 1.7, 1.7, 1.5])
    assert guided(kappa=0.5, guided_low=0.95)[0] == pytest.approx([1.5] * 4)


def test_samples_from_which_something_is_hidden_learn_the_plain_velocity() -> None:
    told = {
        "labels": torch.tensor([CLASSES, 1, 2, 3]),
        "blocked": {(IMAGE, FEATURES): torch.tensor([False, True, False, False])},
        "nulled": {FEATURES: torch.tensor([False, False, True, False])},
    }
    assert guided(told, kappa=0.5)[0] == pytest.approx([1.5, 1.5, 1.5, 1.7])


def test_the_null_branch_lacks_the_label_and_all_that_guidance_hides() -> None:
    rows = torch.tensor([True, False])
    context = {"caption": torch.ones(2, 3)}
    condition = Condition(
        labels=torch.tensor([CLASSES, 4]),
        blocked={(IMAGE, FEATURES): rows},
        nulled={FEATURES: rows},
        supervised={FEATURES: ~rows},
        context=context,
    )
    null = null_branch(condition, CLASSES)
    assert null.labels.tolist() == [CLASSES] * 2
    assert null.blocked[IMAGE, FEATURES].tolist() == null.nulled[FEATURES].tolist() == [True, True]
    assert null.context is context


# ----------------------------------------------------------------------------------------------------------- gradients


def test_gradient_flows_only_through_the_mean_velocity() -> None:
    slope = torch.tensor(0.5, requires_grad=True)

    def formula(noisy: Streams, t: Tensor, gap: Tensor) -> Streams:
        return {IMAGE: slope * noisy[IMAGE] + 0.3 * t + 0.2 * gap}

    step = one_sample(network_of(formula))
    loss = make()(step)[IMAGE]
    (gradient,) = torch.autograd.grad(loss.sum(), slope)
    error = 0.27 - 1.925
    assert loss.item() == pytest.approx(error**2 / (error**2 + 0.01))
    assert gradient.item() == pytest.approx(2 * error * 0.1 / (error**2 + 0.01))


def test_an_adapter_that_learns_gets_the_gradient_of_the_prediction_alone() -> None:
    network, noisy = network_of(linear, "clean"), column(IMAGE, 0.1).requires_grad_()
    step = one_sample(network, noisy={IMAGE: noisy})
    step = attrs.evolve(step, denoised=network(step.noisy, step.times, step.condition))
    (gradient,) = torch.autograd.grad(make(power=0.0)(step)[IMAGE].sum(), noisy)
    error = 0.283333 - 1.194444
    assert gradient.item() == pytest.approx(2 * error * 0.5 / 0.6, rel=1e-5)  # not (0.5 - 1) / 0.6


# ------------------------------------------------------------------------------------------------- weights and metrics


def test_a_stream_counts_as_the_denoising_loss_of_that_stream_would() -> None:
    clean, noise = {IMAGE: (1.0, 0.2), FEATURES: (0.5, 0.1)}, {IMAGE: (-0.5, 1.0), FEATURES: (1.0, 0.3)}
    step = make_step(clean, noise, (0.4, 0.5), (0.9, 0.8), network_of(two_streams))
    plain = make(TWO)(step)
    weights = {IMAGE: torch.tensor([[1.0, 3.0], [0.0, 1.0]]), FEATURES: torch.tensor([0.0, 0.2])}
    weighted = make(TWO)(attrs.evolve(step, denoising_weights=weights))
    torch.testing.assert_close(weighted[IMAGE], plain[IMAGE] * torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(weighted[FEATURES], plain[FEATURES] * torch.tensor([0.0, 0.2]))


def test_the_distance_to_the_plain_velocity_is_logged() -> None:
    loss = make()
    loss(one_sample(network_of(linear)))
    assert {name: value.item() for name, value in loss.metrics().items()} == pytest.approx(
        {"velocity_error.image": (0.27 - 1.5) ** 2}
    )


@pytest.mark.parametrize(
    "options", [{"omega": -1.0}, {"kappa": 1.0}, {"guided_high": 0.0}, {"std": 0.0}, {"instants": 1.5}, {"floor": 0.0}]
)
def test_impossible_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MeanFlow.Config(**options)
