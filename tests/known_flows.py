"""Flows of single numbers whose mean velocity is known, and steps about them, for tests of MeanFlow."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import attrs
import steps
import torch
from torch import Tensor

from vco import flow
from vco.api import FEATURES, IMAGE, Condition, Denoised, LossSetting, Network, Step, Streams, StreamSpec, Times
from vco_plugins.losses.meanflow import MeanFlow, Question, along_the_flow

CLASSES = 10
ONE = {IMAGE: StreamSpec(shape=(1, 1, 1))}
TWO = {IMAGE: StreamSpec(shape=(1, 1, 1)), FEATURES: StreamSpec(shape=(1, 1), grid=(1, 1))}
Formula = Callable[[Streams, Tensor, Tensor], Streams]
"""(noisy numbers, t, q - t) -> the answer."""


def network_of(formula: Formula, answer: str = "velocity") -> Network:
    """A network that gives a formula's velocities, or its clean predictions and the velocities that these mean."""

    def network(noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        t = times[IMAGE]
        gap = condition.until[IMAGE] - t if condition.until else torch.zeros_like(t)
        given = formula({s: x.flatten() for s, x in noisy.items()}, t, gap)
        given = {s: value.view_as(noisy[s]) for s, value in given.items()}
        if answer == "velocity":
            return Denoised(velocity=given)
        return Denoised(clean=given, velocity={s: flow.velocity(x, noisy[s], t) for s, x in given.items()})

    return network


def make(streams: Mapping[str, StreamSpec] = ONE, **options: Any) -> MeanFlow:
    setting = LossSetting(width=4, grid=(1, 1), depth=2, features={}, streams=streams, num_classes=CLASSES)
    return MeanFlow(MeanFlow.Config(**options), setting)


def column(stream: str, *values: float) -> Tensor:
    return torch.tensor(values).view(-1, *TWO[stream].shape)


def make_step(
    clean: Mapping[str, tuple[float, ...]],
    noise: Mapping[str, tuple[float, ...]],
    t: tuple[float, ...],
    until: tuple[float, ...],
    network: Network,
    quiet: Network | None = None,
    **changes: Any,
) -> Step:
    """A step of single numbers, about which the network has been asked."""
    x, eps = ({s: column(s, *values) for s, values in given.items()} for given in (clean, noise))
    times = dict.fromkeys(x, torch.tensor(t))
    noisy = {s: flow.corrupt(x[s], eps[s], times[s]) for s in x}
    condition = Condition(labels=torch.zeros(len(t), dtype=torch.int64), until=dict.fromkeys(x, torch.tensor(until)))
    condition = replace(condition, **changes.pop("told", {}))
    given: dict[str, Any] = {
        "times": times,
        "clean": x,
        "noise": eps,
        "noisy": noisy,
        "target": x,
        "specs": {s: TWO[s] for s in x},
        "condition": condition,
        "quiet": quiet or network,
        "denoised": network(noisy, times, condition),
    }
    return steps.make_step(x[IMAGE], x[IMAGE], condition.labels, {}, **(given | changes))


def velocities(step: Step) -> Streams:
    return {s: flow.velocity(step.target[s], x, step.times[s]) for s, x in step.noisy.items()}


def slopes_of(step: Step, velocity: Streams | None = None) -> dict[str, list[float]]:
    """D of every stream."""
    asked = Question(step.noisy, step.times, step.condition)
    with torch.no_grad():
        slopes = along_the_flow(step.quiet, asked, velocity or velocities(step))
    return {s: slope.flatten().tolist() for s, slope in slopes.items()}


def regressed_to(step: Step, **options: Any) -> dict[str, list[float]]:
    """What each stream of each sample is regressed to, read off the gradient of the squared error."""
    loss = make(step.specs, power=0.0, **options)
    found: dict[str, list[float]] = {}
    for stream in step.specs:
        u = {s: v.detach().clone().requires_grad_() for s, v in step.denoised.velocity.items()}
        terms = loss(attrs.evolve(step, denoised=Denoised(velocity=u)))
        (gradient,) = torch.autograd.grad(terms[stream].sum(), u[stream])
        found[stream] = (u[stream] - gradient / 2).flatten().tolist()
    return found


def linear(noisy: Streams, t: Tensor, gap: Tensor) -> Streams:
    return {IMAGE: 0.5 * noisy[IMAGE] + 0.3 * t + 0.2 * gap}


def two_streams(noisy: Streams, t: Tensor, gap: Tensor) -> Streams:
    return {
        IMAGE: 0.5 * noisy[IMAGE] + 0.25 * noisy[FEATURES] + 0.3 * t + 0.2 * gap,
        FEATURES: 0.1 * noisy[IMAGE] - 0.4 * noisy[FEATURES] + 0.6 * gap,
    }


def normal_data(noisy: Streams, t: Tensor, gap: Tensor) -> Streams:
    """The mean velocity of normal data of mean 0.7 and variance 0.25, to the bit: its flow is linear."""

    def spread(at: Tensor) -> Tensor:
        return (0.25 * at**2 + (1 - at) ** 2).sqrt()

    later = 0.7 * (t + gap) + (noisy[IMAGE] - 0.7 * t) * spread(t + gap) / spread(t)
    return {IMAGE: (later - noisy[IMAGE]) / gap}


def no_noise(k: int) -> Streams:
    """The noise of a solver that should ask for none."""
    raise AssertionError("the solver asked for noise")
