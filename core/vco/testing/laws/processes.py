"""Laws for processes."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from vco import flow
from vco.api import FEATURES, IMAGE, Denoised, Process, ProcessSetting, StreamSpec, Times, UserError
from vco.config.plain import sampling_options
from vco.testing.case import Case
from vco.testing.law import does_not_apply, law, require
from vco.testing.tensors import clone, no_ambient_draws, require_same

MANY: Final = 20_000
STEPS: Final = (1, 2, 3, 10, 40)
"""Numbers of steps that are tried."""


@attrs.frozen(kw_only=True)
class ProcessCase(Case):
    """A process of two streams, or of one if it refuses two."""

    kind = "processes"

    def make(self) -> Process:
        """The process for the streams that it accepts."""
        specs = self._specs
        try:
            return self.subject.component(self.config, ProcessSetting(streams=specs))
        except UserError:
            return self.subject.component(self.config, ProcessSetting(streams={IMAGE: specs[IMAGE]}))

    @property
    def _specs(self) -> dict[str, StreamSpec]:
        sizes, grid = self.sizes, (self.sizes.rows, self.sizes.columns)
        own = {
            IMAGE: StreamSpec(shape=(sizes.channels, 2 * grid[0], 2 * grid[1])),
            FEATURES: StreamSpec(shape=(grid[0] * grid[1], sizes.width), grid=grid),
        }
        return {**own, **self.subject.shapes.streams}

    @property
    def specs(self) -> dict[str, StreamSpec]:
        """The streams that it accepts."""
        specs = self._specs
        try:
            self.subject.component(self.config, ProcessSetting(streams=specs))
        except UserError:
            return {IMAGE: specs[IMAGE]}
        return specs

    def sample(self, process: Process, batch: int = 0, key: int = 1) -> Times:
        """Training times."""
        return process.sample(batch or self.sizes.batch, self.generator(key))

    def path(self, process: Process, steps: int) -> Times:
        """A path; the law does not apply where the process refuses so many steps, as one of one step does."""
        try:
            return process.path(steps)
        except UserError as error:
            does_not_apply(f"it refuses {steps} steps: {error}")


@law(ProcessCase)
def times_are_in_range(case: ProcessCase) -> None:
    """Training times are float32 in [0, 1] for every stream: [batch], or [batch, n] with one for every token.

    An image has as many tokens as squares of one size fill it.
    """
    for batch in (case.sizes.batch, 4000):
        times = case.sample(case.build(), batch)
        specs = case.specs
        require(set(times) == set(specs), f"times for {sorted(times)} instead of {sorted(specs)}")
        for name, t in times.items():
            fits = t.dtype == torch.float32 and t.ndim in (1, 2) and len(t) == batch
            require(fits, f"{name} has times {t.dtype} {tuple(t.shape)}")
            require(((t >= 0) & (t <= 1)).all(), f"{name} has times from {t.min():.3g} to {t.max():.3g}")
            if t.ndim == 2:
                _require_tokens(name, t.shape[1], specs[name])


def _require_tokens(name: str, n: int, spec: StreamSpec) -> None:
    try:
        flow.spread(torch.zeros(1, n), torch.zeros(1, *spec.shape))
    except ValueError as error:
        require(False, f"{name}: {error}")


@law(ProcessCase)
def same_generator_same_times(case: ProcessCase) -> None:
    """Training times come from the given generator alone; another one gives others."""
    process = case.build()
    first = case.sample(process, 64)
    with no_ambient_draws("sample"):
        again = case.sample(process, 64)
    require_same(first, again, "two equal generators gave different times", 0.0)
    if not _accepts(process, 2):  # a process of one step may have no other times
        return
    other = case.sample(process, 64, key=2)
    require(any(not torch.equal(first[name], other[name]) for name in first), "two generators gave the same times")


@law(ProcessCase, about=lambda component: bool(sampling_options(component.Config)))
def path_options_leave_training_alone(case: ProcessCase) -> None:
    """An option marked as of sampling alone changes neither training times, nor their weights, nor its own state."""

    def training(process: Process) -> list[Any]:
        times = case.sample(process, 64)
        return [times, process.weight(times), dict(process.named_parameters()), dict(process.named_buffers())]

    before = training(case.build())
    for name, other in case.sampled_otherwise():
        require_same(before, training(other), f"{name}, an option of sampling, changes training", 0.0)


@law(ProcessCase)
def every_sample_has_its_own_time(case: ProcessCase) -> None:
    """Times differ between the samples of a batch and cover noise as well as data.

    A process whose path has one step alone may always train at the times of that.
    """
    process = case.build()
    case.path(process, 2)
    times = case.sample(process, 4000)
    spread = {name: t.max() - t.min() for name, t in times.items()}
    for name, gap in spread.items():
        require(gap > 0.3, f"4,000 times of {name} lie within {gap:.3g} of each other")
    several = max(len(t.unique()) for t in times.values())
    require(several > 1000, f"4,000 samples have only {several} different times")


@law(ProcessCase)
def path_runs_from_noise_to_data(case: ProcessCase) -> None:
    """A path is float64 [steps + 1], from 0 to 1, never goes back, and each step moves some stream.

    It may refuse numbers of steps with a `UserError`, but not all.
    """
    process, specs = case.build(), case.specs
    accepted = 0
    for steps in STEPS:
        try:
            path = process.path(steps)
        except UserError:
            continue
        accepted += 1
        require(set(path) == set(specs), f"paths for {sorted(path)} instead of {sorted(specs)}")
        for name, t in path.items():
            require(t.dtype == torch.float64, f"the path of {name} is {t.dtype}")
            require(t.shape == (steps + 1,), f"{steps} steps: the path of {name} has the shape {tuple(t.shape)}")
            require(t[0] == 0 and t[-1] == 1, f"the path of {name} runs from {t[0]:.3g} to {t[-1]:.3g}")
            require((t.diff() >= 0).all(), f"{steps} steps: the path of {name} goes back")
        moves = torch.stack([t.diff() for t in path.values()]).amax(0)
        require((moves > 0).all(), f"{steps} steps: no stream moves in step {int((moves <= 0).int().argmax())}")
    require(accepted, f"it refuses paths of {', '.join(map(str, STEPS))} steps")


@law(ProcessCase)
def path_is_fixed(case: ProcessCase) -> None:
    """Two calls give the same path, draw nothing ambient, and hand out nothing that a caller could spoil."""
    process = case.build()
    steps = next((steps for steps in reversed(STEPS) if _accepts(process, steps)), STEPS[0])
    with no_ambient_draws("path"):
        first = case.path(process, steps)
    expected = clone(first)
    with torch.no_grad():
        for t in first.values():
            t.zero_()
    require_same(expected, process.path(steps), "a second path", 0.0)


def _accepts(process: Process, steps: int) -> bool:
    try:
        process.path(steps)
    except UserError:
        return False
    return True


@law(ProcessCase)
def path_stays_where_it_was_trained(case: ProcessCase) -> None:
    """Sampling visits combinations of times that training has drawn.

    Near every point of the path lie training times; the ends are left out, as training may leave them out.
    """
    process = case.build()
    path = torch.stack([t.float() for t in case.path(process, 40).values()], 1)
    middle = ((path == 0) | (path == 1) | ((path > 0.15) & (path < 0.7))).all(1)
    middle &= ((path > 0) & (path < 1)).any(1)
    points = path[middle]
    if not len(points):
        does_not_apply("its path has no inner points")
    # of times for each token those of the first: where they are mixed, no point of the path is exactly drawn
    drawn = torch.stack([t.flatten(1)[:, 0] if t.ndim > 1 else t for t in case.sample(process, MANY).values()], 1)
    far = torch.cdist(points, drawn).amin(1)
    worst = int(far.argmax())
    where = ", ".join(f"{name} {t:.2f}" for name, t in zip(case.specs, points[worst].tolist(), strict=True))
    require(far[worst] < 0.1, f"no training times lie near {where} on the path (the nearest is {far[worst]:.2f} away)")


@law(ProcessCase)
def weights_are_factors(case: ProcessCase) -> None:
    """weight() gives every stream a finite factor of each sample, not negative, not all zero, and changes no time."""
    process = case.build()
    times = case.sample(process, 256)
    before = clone(times)
    weights = process.weight(times)
    require_same(times, before, "weight() changed the times", 0.0)
    require(weights.keys() == times.keys(), f"weights for {sorted(weights)} instead of {sorted(times)}")
    for name, weight in weights.items():
        require(weight.shape == times[name].shape, f"the weight of {name} has the shape {tuple(weight.shape)}")
        fine = torch.isfinite(weight).all() and (weight >= 0).all() and weight.any()
        require(fine, f"the weight of {name} runs from {weight.min():.3g} to {weight.max():.3g}")


@law(ProcessCase)
def clean_streams_do_not_count(case: ProcessCase) -> None:
    """Samples whose stream is given clean (t = 1 in training) have the weight 0 there: nothing is to be predicted."""
    process = case.build()
    times = case.sample(process, 4000)
    for name, weight in process.weight(times).items():
        counted = int(((times[name] == 1) & (weight > 0)).sum())
        require(counted == 0, f"{counted} of 4,000 samples count for {name} although it is given clean")


@law(ProcessCase)
def weight_of_a_sample_is_its_own(case: ProcessCase) -> None:
    """The weight of a sample depends on its own times only."""
    process = case.build()
    times, other = case.sample(process, 8), case.sample(process, 8, key=2)
    mixed = {name: torch.cat([t[:1], other[name][1:]]) for name, t in times.items()}
    one = {name: weight[:1] for name, weight in process.weight(times).items()}
    two = {name: weight[:1] for name, weight in process.weight(mixed).items()}
    require_same(one, two, "the weight of sample 0 changes with other samples")


def own_losses(case: ProcessCase, process: Process, times: Times) -> Mapping[str, Tensor]:
    """The losses of a process, of a network that answers something."""
    draws, batch = case.generator(5), len(next(iter(times.values())))
    answers = [
        {name: torch.randn(batch, *spec.shape, generator=draws) for name, spec in case.specs.items()} for _ in range(2)
    ]
    return process.losses(times, Denoised(clean=answers[0], velocity=answers[1]))


@law(ProcessCase, about=lambda process: process.losses is not Process.losses)
def losses_are_scalars(case: ProcessCase) -> None:
    """Its own losses are finite scalars."""
    process = case.build()
    for name, loss in own_losses(case, process, case.sample(process, 64)).items():
        require(loss.ndim == 0 and torch.isfinite(loss.detach()), f"the loss {name} is {loss.tolist()}")


@law(ProcessCase)
def gradients_reach_its_weights(case: ProcessCase) -> None:
    """If it learns, every trainable weight gets a finite gradient from times, from their weights or from its losses."""
    process = case.build()
    trained = {name: p for name, p in process.named_parameters() if p.requires_grad}
    if not trained:
        return
    times = case.sample(process, 64)
    draws, total = case.generator(9), torch.zeros(())
    for x in (*times.values(), *process.weight(times).values(), *own_losses(case, process, times).values()):
        total = total + (x * torch.randn(x.shape, generator=draws)).sum()
    require(total.requires_grad, "nothing that it gives carries a gradient, although it has trainable weights")
    total.backward()
    for name, parameter in trained.items():
        reached = parameter.grad is not None and parameter.grad.abs().sum() > 0
        require(reached, f"no gradient reaches {name}")
        require(parameter.grad is None or torch.isfinite(parameter.grad).all(), f"{name} has a gradient not finite")
