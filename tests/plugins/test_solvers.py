"""Integrators of the sampling ODE, against fields whose solution is known."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from vco.api import FEATURES, IMAGE, SolverSetting, Streams, StreamSpec, Times
from vco_plugins.solvers.euler import Euler
from vco_plugins.solvers.heun import Heun

SOLVERS = [Euler, Heun]
SETTING = SolverSetting(streams={IMAGE: StreamSpec(shape=(3,)), FEATURES: StreamSpec(shape=(4,))})
Field = Callable[[torch.Tensor, float], torch.Tensor]


def no_noise(k: int) -> Streams:
    raise AssertionError("a deterministic solver asked for noise")


def uniform(steps: int) -> Times:
    return {IMAGE: torch.linspace(0, 1, steps + 1, dtype=torch.float64)}


def solve(solver: Any, field: Field, start: torch.Tensor, steps: int) -> torch.Tensor:
    def velocity(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        return {IMAGE: field(state[IMAGE], times[IMAGE])}

    instance = solver(solver.Config(), SETTING)
    return instance.integrate(velocity, {IMAGE: start}, uniform(steps), no_noise)[IMAGE]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 7])
def test_constant_field_is_integrated_exactly(solver: Any, steps: int) -> None:
    start, slope = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    # exact but for the float32 rounding of seven additions
    torch.testing.assert_close(solve(solver, lambda x, t: slope, start, steps), start + slope, rtol=1e-6, atol=1e-6)


def test_heun_integrates_a_field_linear_in_time_exactly_up_to_its_last_step() -> None:
    result = solve(Heun, lambda x, t: torch.full_like(x, 1 + 4 * t), torch.zeros(2, 3), 8)
    last = 1 / 8
    # integral of 1 + 4t; Euler's last step misses half of slope * step^2
    torch.testing.assert_close(result, torch.full((2, 3), 3 - 4 * last**2 / 2), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("solver", "order"), [(Euler, 1), (Heun, 2)])
def test_error_falls_with_the_order_of_the_method(solver: Any, order: int) -> None:
    # x' = -x^2, x(0) = 1 has the solution 1 / (1 + t)
    errors = [abs(solve(solver, lambda x, t: -x * x, torch.ones(1), n).item() - 0.5) for n in (16, 32)]
    # halving the step divides the error by 2^order, up to higher terms; float32 rounding is 1e-3 of the smaller error
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("solver", "evaluations"), [(Euler, 5), (Heun, 9)])
def test_number_of_network_evaluations_in_five_steps(solver: Any, evaluations: int) -> None:
    calls: list[float] = []

    def field(x: torch.Tensor, t: float) -> torch.Tensor:
        calls.append(t)
        return x

    solve(solver, field, torch.ones(1), 5)
    assert len(calls) == evaluations
    assert max(calls) < 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_start_is_not_modified(solver: Any) -> None:
    start = torch.ones(2, 3)
    solve(solver, lambda x, t: x, start, 3)
    assert torch.equal(start, torch.ones(2, 3))


@pytest.mark.parametrize("solver", SOLVERS)
def test_bfloat16_velocities_leave_the_state_in_float32(solver: Any) -> None:
    assert solve(solver, lambda x, t: x.bfloat16(), torch.ones(2, 3), 3).dtype == torch.float32


@pytest.mark.parametrize("solver", SOLVERS)
def test_streams_follow_paths_of_their_own(solver: Any) -> None:
    path = {
        FEATURES: torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0], dtype=torch.float64),
        IMAGE: torch.tensor([0.0, 0.0, 0.0, 0.25, 1.0], dtype=torch.float64),
    }
    slope = {FEATURES: 2.0, IMAGE: -3.0}
    seen: list[dict[str, float]] = []

    def velocity(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        seen.append(dict(times))
        for name, x in state.items():  # sums of these few binary fractions are exact
            assert torch.equal(x, torch.full_like(x, slope[name] * times[name]))
        return {name: torch.full_like(x, slope[name]) for name, x in state.items()}

    start = {IMAGE: torch.zeros(2, 3), FEATURES: torch.zeros(2, 4)}
    end = solver(solver.Config(), SETTING).integrate(velocity, start, path, no_noise)
    assert {FEATURES: 0.5, IMAGE: 0.0} in seen
    assert {FEATURES: 1.0, IMAGE: 0.25} in seen
    assert torch.equal(end[IMAGE], torch.full((2, 3), -3.0))
    assert torch.equal(end[FEATURES], torch.full((2, 4), 2.0))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_stream_whose_time_stands_still_is_left_alone_even_by_an_infinite_velocity(solver: Any) -> None:
    path = {**uniform(3), FEATURES: torch.ones(4, dtype=torch.float64)}
    start = {IMAGE: torch.zeros(2, 3), FEATURES: torch.full((2, 4), 0.1)}

    def velocity(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        return {IMAGE: torch.ones(2, 3), FEATURES: torch.full((2, 4), math.inf)}

    end = solver(solver.Config(), SETTING).integrate(velocity, start, path, no_noise)
    assert torch.equal(end[FEATURES], start[FEATURES])
