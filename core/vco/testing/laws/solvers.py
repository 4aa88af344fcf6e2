"""Laws for solvers."""

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import FEATURES, IMAGE, Solver, SolverSetting, Streams, StreamSpec, Times
from vco.testing.case import Case
from vco.testing.law import does_not_apply, law, require
from vco.testing.tensors import clone, no_ambient_draws, require_same

Moment = Mapping[str, float]
"""A time of each stream."""


@attrs.frozen(kw_only=True)
class SolverCase(Case):
    """A solver, and fields whose solution is known."""

    kind = "solvers"

    def make(self) -> Solver:
        """The solver."""
        return self.subject.component(self.config, SolverSetting(streams=self.specs))

    @property
    def specs(self) -> dict[str, StreamSpec]:
        """Of the image and of features."""
        sizes, grid = self.sizes, (1, self.sizes.rows)
        return {
            IMAGE: StreamSpec(shape=(sizes.channels, sizes.rows, sizes.columns)),
            FEATURES: StreamSpec(shape=(sizes.rows, sizes.width), grid=grid),
        }

    def state(self, key: int = 1) -> Streams:
        """Noise of two streams."""
        draws, batch = self.generator(key), self.sizes.batch
        return {name: torch.randn(batch, *spec.shape, generator=draws) for name, spec in self.specs.items()}

    def noise(self, state: Streams) -> "CountedNoise":
        """Noise for stochastic solvers, which counts."""
        return CountedNoise(self.sizes.seed, {name: x.shape for name, x in state.items()})

    def is_stochastic(self) -> bool:
        """Whether the solver asks for noise."""
        state = self.state()
        noise = self.noise(state)
        self.build().integrate(lambda x, t, until: {name: -y for name, y in x.items()}, state, uniform(8), noise)
        return bool(noise.asked)


class CountedNoise:
    """k -> noise of every stream; remembers the k it was asked for."""

    def __init__(self, seed: int, shapes: Mapping[str, Any]) -> None:
        self.seed, self.shapes = seed, shapes
        self.asked: list[int] = []

    def __call__(self, k: int) -> Streams:
        """The k-th noise."""
        self.asked.append(k)
        draws = torch.Generator().manual_seed(1000 * self.seed + k)
        return {name: torch.randn(shape, generator=draws) for name, shape in self.shapes.items()}


def uniform(steps: int, power: float = 1.0) -> Times:
    """A path of both streams; powers other than 1 make the steps unequal."""
    return dict.fromkeys((IMAGE, FEATURES), torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** power)


@law(SolverCase)
def straight_paths_are_exact(case: SolverCase) -> None:
    """On the straight way to a single data point it ends exactly there, whatever the steps.

    Its velocity is (x* - x) / (1 - t).
    """
    goal = case.state(2)
    if case.is_stochastic():
        does_not_apply("it adds noise")
    for path in (uniform(1), uniform(4), uniform(10, 1.7)):

        def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
            ahead = {name: 1 - t[name] for name in x}
            # the field is not defined at its end
            return {n: (goal[n] - y) / ahead[n] if ahead[n] > 1e-9 else torch.full_like(y, 1e6) for n, y in x.items()}

        state = case.state()
        found = case.build().integrate(velocity, state, path, case.noise(state))
        require_same(goal, found, f"the end of a straight path in {len(path[IMAGE]) - 1} steps")


@law(SolverCase)
def order_pays_for_evaluations(case: SolverCase) -> None:
    """With more steps the error falls as fast as the number of evaluations in a step allows.

    One evaluation a step: first order, two: second, up to the fourth; on a smooth field.
    """
    if case.is_stochastic():
        does_not_apply("it adds noise")
    calls, errors = 0, dict[int, float]()

    def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
        nonlocal calls
        calls += 1
        return {name: (math.sin(3 * t[name]) - 2) * y + math.cos(2 * t[name]) for name, y in x.items()}

    exact = case.state()[IMAGE].double()
    h = 1 / 4000
    for i in range(4000):  # the midpoint rule, wrong by 1e-8
        t = i * h
        half = exact + h / 2 * ((math.sin(3 * t) - 2) * exact + math.cos(2 * t))
        t += h / 2
        exact = exact + h * ((math.sin(3 * t) - 2) * half + math.cos(2 * t))
    for steps in (4, 8, 16):
        calls, state = 0, case.state()
        found = case.build().integrate(velocity, state, uniform(steps), case.noise(state))[IMAGE]
        errors[steps] = (found.double() - exact).abs().max().item()
    expected = min(4, round(calls / 16))
    if errors[16] < 2e-6:  # float32 shows no more
        return
    order = math.log2(errors[4] / errors[16]) / 2
    require(order > expected - 0.35, f"order {order:.2f} with {calls / 16:.1f} evaluations a step")


@law(SolverCase, once=True)
def carries_noise_to_data(case: SolverCase) -> None:
    """With the exact velocity of normal data, noise ends with the data's mean and standard deviation.

    Stochastic solvers too.
    """
    mean, std, count = 1.5, 0.5, 4000

    def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
        answer: Streams = {}
        for name, y in x.items():
            at = t[name]
            variance = (at * std) ** 2 + (1 - at) ** 2
            centred = y - at * mean
            # E[data - noise | x_t]
            answer[name] = mean + centred * (at * std**2 - (1 - at)) / variance
        return answer

    state = {name: torch.randn(count, 1, generator=case.generator(4)) for name in (IMAGE, FEATURES)}
    found = case.build().integrate(velocity, state, uniform(100), case.noise(state))
    for name, x in found.items():
        # five standard errors of 4,000 samples, and as much again for 100 steps
        require(abs(x.mean() - mean) < 0.08, f"{name} ends with the mean {x.mean():.3f} instead of {mean}")
        require(abs(x.std() - std) < 0.06, f"{name} ends with the standard deviation {x.std():.3f} instead of {std}")


@law(SolverCase)
def streams_have_times_of_their_own(case: SolverCase) -> None:
    """Each stream follows its own times: it ends where it would end beside another stream, or alone.

    The velocity is asked at their own times. Stochastic solvers may choose steps that suit both streams.
    """
    paths = {IMAGE: uniform(6)[IMAGE] ** 2, FEATURES: uniform(6)[FEATURES] ** 0.5}
    state = case.state()

    def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
        require(set(t) == set(x), f"the velocity is asked at times of {sorted(t)} for streams {sorted(x)}")
        return {name: math.cos(3 * t[name]) - 0.3 * y for name, y in x.items()}

    both = case.build().integrate(velocity, state, paths, case.noise(state))
    require(set(both) == set(state), f"streams {sorted(state)} became {sorted(both)}")
    for name in state:
        other = case.state(5) | {name: state[name]}
        found = case.build().integrate(velocity, other, paths, case.noise(state))
        require_same(both[name], found[name], f"{name} with another companion")
        if not case.is_stochastic():  # those may choose steps that suit both
            found = case.build().integrate(velocity, {name: state[name]}, {name: paths[name]}, case.noise(state))
            require_same(both[name], found[name], f"{name} alone")


@law(SolverCase)
def asks_along_the_path(case: SolverCase) -> None:
    """It asks for velocities at times inside the path, in the given shapes, at the first point first.

    The time that it says the step goes to is never before the time that it asks about, nor beyond the path; the first
    step goes somewhere.
    """
    state, asked, ends = case.state(), list[float](), list[float]()

    def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
        require(set(until) == set(x), f"it says the step's end of {sorted(until)} for streams {sorted(x)}")
        for name, y in x.items():
            require(y.shape == state[name].shape, f"it asks with {name} of shape {tuple(y.shape)}")
            require(0 <= t[name] <= 1, f"it asks at t = {t[name]}")
            inside = t[name] <= until[name] <= 1
            require(inside, f"it asks at t = {t[name]} for a step to {until[name]}")
        asked.append(t[IMAGE])
        ends.append(until[IMAGE])
        return {name: -y for name, y in x.items()}

    case.build().integrate(velocity, state, uniform(5), case.noise(state))
    require(asked and asked[0] == 0, f"it asks first at {asked[:1]}")
    require(ends[0] > 0, "it says that the first step goes to the time at which it begins")
    require(len(asked) >= 5, f"5 steps take {len(asked)} evaluations")


@law(SolverCase, about=lambda solver: solver.needs_until)
def mean_velocities_are_followed(case: SolverCase) -> None:
    """Given the mean velocity of each step, it ends where the flow does, in any number of steps.

    For solvers that make steps with mean velocities (`needs_until`).
    """
    if case.is_stochastic():
        does_not_apply("it adds noise")

    def flow(y: Tensor, t: float, until: float) -> Tensor:
        return y * math.exp(math.sin(2 * t) - math.sin(2 * until)) + until - t

    def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
        ways = {name: until[name] - t[name] for name in x}
        return {
            name: (flow(y, t[name], until[name]) - y) / ways[name] if ways[name] > 0 else torch.zeros_like(y)
            for name, y in x.items()
        }

    for path in (uniform(1), uniform(2, 1.5), uniform(6)):
        state, expected = case.state(), case.state()
        for k in range(len(path[IMAGE]) - 1):
            ends = {name: (t[k].item(), t[k + 1].item()) for name, t in path.items()}
            expected = {name: flow(y, *ends[name]) for name, y in expected.items()}
        found = case.build().integrate(velocity, state, path, case.noise(state))
        require_same(expected, found, f"the end of the flow in {len(path[IMAGE]) - 1} steps")


@law(SolverCase)
def resting_streams_stay(case: SolverCase) -> None:
    """A stream whose time stands still is left as it is, to the bit, whatever its velocity."""
    state = case.state()
    paths = {IMAGE: uniform(4)[IMAGE], FEATURES: torch.ones(5, dtype=torch.float64)}

    def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
        return {IMAGE: -x[IMAGE], FEATURES: torch.full_like(x[FEATURES], float("inf"))}

    found = case.build().integrate(velocity, state, paths, case.noise(state))
    require(torch.equal(found[FEATURES], state[FEATURES]), "a stream at rest was changed")


@law(SolverCase)
def state_stays_float32(case: SolverCase) -> None:
    """The state stays float32 where velocities come in bfloat16 or float64."""
    for dtype in (torch.bfloat16, torch.float64):
        state = case.state()

        def velocity(x: Streams, t: Moment, until: Moment, dtype: torch.dtype = dtype) -> Streams:
            for name, y in x.items():
                require(y.dtype == torch.float32, f"{name} becomes {y.dtype} on the way for velocities of {dtype}")
            return {name: (-y).to(dtype) for name, y in x.items()}

        for name, x in case.build().integrate(velocity, state, uniform(4), case.noise(state)).items():
            require(x.dtype == torch.float32, f"{name} ends as {x.dtype} for velocities of {dtype}")


@law(SolverCase)
def same_call_same_result(case: SolverCase) -> None:
    """A second call gives the same result, draws nothing ambient, and finds its arguments as they were."""
    solver, state, path = case.build(), case.state(), uniform(6)
    before = clone({"state": state, "path": path})

    def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
        return {name: math.cos(3 * t[name]) - 0.3 * y for name, y in x.items()}

    with no_ambient_draws("integrate"):
        first = solver.integrate(velocity, state, path, case.noise(state))
    require_same(before, {"state": state, "path": path}, "an argument was changed", 0.0)
    require_same(first, solver.integrate(velocity, state, path, case.noise(state)), "a second call", 0.0)


@law(SolverCase)
def rows_do_not_mix(case: SolverCase) -> None:
    """Row 0 of the result depends only on row 0 of the state."""
    state, other = case.state(), case.state(3)
    mixed = {name: torch.cat([x[:1], other[name][1:] * 3]) for name, x in state.items()}

    def velocity(x: Streams, t: Moment, until: Moment) -> Streams:
        return {name: torch.cos(y + 3 * t[name]) for name, y in x.items()}

    results: list[dict[str, Tensor]] = []
    for start in (state, mixed):
        found = case.build().integrate(velocity, start, uniform(6), case.noise(state))
        results.append({name: x[:1] for name, x in found.items()})
    require_same(results[0], results[1], "row 0 changes with other rows")


@law(SolverCase)
def each_noise_is_fresh(case: SolverCase) -> None:
    """A stochastic solver takes another noise for each step, and at most one each."""
    state = case.state()
    noise = case.noise(state)
    case.build().integrate(lambda x, t, until: {name: -y for name, y in x.items()}, state, uniform(8), noise)
    require(len(set(noise.asked)) == len(noise.asked), f"it takes the same noise twice: {noise.asked}")
