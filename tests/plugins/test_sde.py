"""Euler-Maruyama, against Gaussian data whose velocity is known."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vco.api import FEATURES, IMAGE, ProcessSetting, SolverSetting, Streams, StreamSpec, Times
from vco_plugins.processes.cascaded import Cascaded
from vco_plugins.processes.offset import Offset
from vco_plugins.processes.shifted import Shifted
from vco_plugins.solvers.euler import Euler
from vco_plugins.solvers.sde import SDE, retimed

MEAN, VARIANCE = 1.5, 0.25
"""Of the data; the distribution on the way has a closed form."""
STREAMS = {IMAGE: StreamSpec(shape=(8,)), FEATURES: StreamSpec(shape=(8,))}
SETTING = SolverSetting(streams=STREAMS)
START = torch.linspace(-2, 2, 8)


def gaussian(x: torch.Tensor, t: float) -> torch.Tensor:
    """Velocity of the flow from standard normal noise to the data."""
    gain = (t * VARIANCE - (1 - t)) / (t * t * VARIANCE + (1 - t) ** 2)
    return MEAN + gain * (x - t * MEAN)


def velocity(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
    return {name: gaussian(x, times[name]) for name, x in state.items()}


def silence(k: int) -> Streams:
    return {IMAGE: torch.zeros(8), FEATURES: torch.zeros(8)}


def uniform(steps: int, *names: str) -> Times:
    return dict.fromkeys(names or (IMAGE,), torch.linspace(0, 1, steps + 1, dtype=torch.float64))


def two_streams(process: Any, steps: int) -> Times:
    return process(process.Config(), ProcessSetting(streams=STREAMS)).path(steps)


# ------------------------------------------------------------------------------------------------- published numbers


def test_without_noise_it_gives_the_published_numbers() -> None:
    result = SDE(SDE.Config(), SETTING).integrate(velocity, {IMAGE: START}, uniform(250), silence)[IMAGE]
    # float32 rounding of 250 additions
    assert result[:4].tolist() == pytest.approx([1.1999537, 1.2856812, 1.3714087, 1.4571363], abs=3e-6)


def test_euler_gives_the_published_numbers() -> None:
    result = Euler(Euler.Config(), SETTING).integrate(velocity, {IMAGE: START}, uniform(50), silence)[IMAGE]
    # the map is affine, and so are these; the fourth number of that list, 1.3612653, is not on their line
    assert result[:3].tolist() == pytest.approx([0.5292065, 0.8065761, 1.0839457], abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ the law


@pytest.mark.parametrize("names", [(IMAGE,), (IMAGE, FEATURES)])
def test_samples_have_the_mean_and_spread_of_the_data(names: tuple[str, ...]) -> None:
    count = 20_000
    generator = torch.Generator().manual_seed(0)

    def noise(k: int) -> Streams:
        return {name: torch.randn(count, generator=generator) for name in names}

    path = two_streams(Cascaded, 400) if len(names) == 2 else uniform(200)
    result = SDE(SDE.Config(last_step=0.01), SETTING).integrate(velocity, noise(0), path, noise)
    for x in result.values():
        # five standard errors, and 1 % of a first-order method with 200 steps
        assert x.mean().item() == pytest.approx(MEAN, abs=5 * 0.5 / math.sqrt(count) + 0.015)
        assert x.std().item() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2 * count) + 0.005)


def test_the_noise_of_a_step_has_the_variance_of_the_diffusion() -> None:
    def still(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        # v = x / (1 + t): no drift
        return {name: x / (1 + times[name]) for name, x in state.items()}

    used: list[int] = []

    def noise(k: int) -> Streams:
        used.append(k)
        return {IMAGE: torch.ones(8)}

    result = SDE(SDE.Config(last_step=0.1), SETTING).integrate(still, {IMAGE: torch.zeros(8)}, uniform(4), noise)[IMAGE]
    # three steps of 0.3 with w_t = 2 (1 - t); the last one has none
    expected = sum(math.sqrt(2 * (1 - t) * 0.3) for t in (0, 0.3, 0.6))
    torch.testing.assert_close(result, torch.full((8,), expected))
    assert used == [0, 1, 2]


def test_another_noise_gives_another_sample() -> None:
    def loud(k: int) -> Streams:
        return {IMAGE: torch.ones(8)}

    one, other = (
        SDE(SDE.Config(), SETTING).integrate(velocity, {IMAGE: START}, uniform(5), n) for n in (silence, loud)
    )
    assert not torch.equal(one[IMAGE], other[IMAGE])


# ----------------------------------------------------------------------------------------------------------- the grid


def test_250_steps_are_those_of_the_published_sampler() -> None:
    grid = retimed(uniform(250), 0.04)[IMAGE]
    torch.testing.assert_close(grid[:-1], torch.linspace(0, 0.96, 250, dtype=torch.float64))
    assert grid[-1] == 1


def test_every_stage_of_a_cascade_ends_with_a_last_step_of_its_own() -> None:
    grid = retimed(two_streams(Cascaded, 50), 0.04)
    even = torch.cat([torch.linspace(0, 0.96, 25, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
    torch.testing.assert_close(grid[FEATURES][:26], even)
    torch.testing.assert_close(grid[IMAGE][25:], even)
    assert not grid[IMAGE][:26].any()
    assert (grid[FEATURES][25:] == 1).all()


def test_streams_that_arrive_together_keep_to_their_path() -> None:
    path = two_streams(Shifted, 250)
    grid = retimed(path, 0.04)
    shift = Shifted.Config().shift
    assert grid[IMAGE][-2].item() == pytest.approx(0.96)
    # linear between the points of the path: second order in 1 / 250
    expected = shift * grid[IMAGE] / (1 - grid[IMAGE] + shift * grid[IMAGE])
    torch.testing.assert_close(grid[FEATURES], expected, rtol=0, atol=1e-4)


@given(steps=st.integers(2, 60), last_step=st.floats(0.01, 0.9), process=st.sampled_from([Cascaded, Offset, Shifted]))
def test_a_grid_never_falls_and_runs_from_0_to_1(steps: int, last_step: float, process: Any) -> None:
    for t in retimed(two_streams(process, steps), last_step).values():
        assert len(t) == steps + 1
        assert (t[0], t[-1]) == (0, 1)
        assert (t.diff() >= 0).all()


def test_one_step_is_one_evaluation_of_the_noise() -> None:
    seen: list[float] = []

    def field(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        seen.append(times[IMAGE])
        return velocity(state, times, until)

    SDE(SDE.Config(), SETTING).integrate(field, {IMAGE: START}, uniform(1), silence)
    assert seen == [0.0]


# -------------------------------------------------------------------------------------------------------- two streams


def test_a_stream_whose_time_stands_still_is_left_alone_even_by_an_infinite_velocity() -> None:
    path = {**uniform(3), FEATURES: torch.ones(4, dtype=torch.float64)}
    start = {IMAGE: START, FEATURES: torch.full((8,), 0.1)}

    def field(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        return {IMAGE: torch.ones(8), FEATURES: torch.full((8,), math.inf)}

    end = SDE(SDE.Config(), SETTING).integrate(field, start, path, silence)
    assert torch.equal(end[FEATURES], start[FEATURES])


def test_the_start_is_not_modified_and_the_state_stays_float32() -> None:
    start = START.clone()

    def field(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        return {name: v.bfloat16() for name, v in velocity(state, times, until).items()}

    end = SDE(SDE.Config(), SETTING).integrate(field, {IMAGE: start}, uniform(3), silence)
    assert torch.equal(start, START)
    assert end[IMAGE].dtype == torch.float32


@pytest.mark.parametrize("last_step", [0.0, 1.0])
def test_a_last_step_of_nothing_or_everything_is_refused(last_step: float) -> None:
    with pytest.raises(ValueError, match="last_step"):
        SDE.Config(last_step=last_step)
