"""The solver of mean velocities: golden numbers, and sampling with real networks."""

from collections.abc import Mapping

import objectives
import pytest
import torch
from known_flows import ONE, TWO, column, linear, network_of, no_noise, normal_data

from vco.api import FEATURES, IMAGE, Condition, Denoised, Network, SolverSetting, Streams, Times
from vco.sampling.velocity import GuidedVelocity
from vco_plugins.solvers.meanflow import MeanFlow as MeanFlowSolver

both = pytest.mark.parametrize("streams", [objectives.ONE_STREAM, objectives.TWO_STREAMS])
LEARNT = ("--loss", "meanflow", "--solver", "meanflow")


def solve(network: Network, start: float, points: list[float]) -> list[float]:
    """The states that the solver passes, the last one included."""
    states: list[float] = []

    def velocity(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        states.append(state[IMAGE].item())
        ends = {s: torch.tensor([q]) for s, q in until.items()}
        condition = Condition(labels=torch.zeros(1, dtype=torch.int64), until=ends)
        return network(state, {s: torch.tensor([t]) for s, t in times.items()}, condition).velocity

    solver = MeanFlowSolver(MeanFlowSolver.Config(), SolverSetting(streams=ONE))
    path = {IMAGE: torch.tensor(points, dtype=torch.float64)}
    end = solver.integrate(velocity, {IMAGE: column(IMAGE, start)}, path, no_noise)[IMAGE].item()
    return [*states[1:], end]


def test_golden_numbers_of_one_step_and_of_two() -> None:
    assert solve(network_of(linear), 1.0, [0, 1]) == pytest.approx([1.7])
    assert solve(network_of(linear), 1.0, [0, 0.5, 1]) == pytest.approx([1.3, 1.75])


@pytest.mark.parametrize("points", [[0, 1], [0, 0.5, 1], [0, 0.1, 0.2, 0.7, 1]])
def test_with_the_true_mean_velocity_any_steps_end_in_the_same_sample(points: list[float]) -> None:
    assert solve(network_of(normal_data), -0.3, points)[-1] == pytest.approx(0.55, abs=1e-6)  # float32


@pytest.mark.parametrize("count", [1, 2, 4])
@both
def test_unguided_sampling_evaluates_the_network_once_a_step_and_tells_it_where_to(
    streams: tuple[str, ...], count: int
) -> None:
    run = objectives.make_run(*streams, *LEARNT, "--guidance.scale", "1")
    objective, asked = run.objective, list[tuple[float, float, int]]()
    forward = objective.backbone.forward

    def recorded(noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        for stream in objective.specs:
            assert torch.equal(times[stream], times[IMAGE])
            assert torch.equal(condition.until[stream], condition.until[IMAGE])
        asked.append((times[IMAGE][0].item(), condition.until[IMAGE][0].item(), len(times[IMAGE])))
        return forward(noisy, times, condition, taps)

    objective.eval()
    objective.backbone.forward = recorded
    start = {s: torch.randn(3, *spec.shape) for s, spec in objective.specs.items()}
    velocity, path = GuidedVelocity(objective, torch.arange(3), until=True), objective.process.path(count)
    with torch.no_grad():
        end = run.solver.integrate(velocity, start, path, no_noise)
    assert asked == [(k / count, (k + 1) / count, 3) for k in range(count)]
    assert all(x.isfinite().all() and not torch.equal(x, start[s]) for s, x in end.items())


def test_a_stream_that_stands_still_is_left_alone_even_by_an_infinite_velocity() -> None:
    path = {IMAGE: torch.linspace(0, 1, 4, dtype=torch.float64), FEATURES: torch.ones(4, dtype=torch.float64)}
    start = {IMAGE: column(IMAGE, 0.0), FEATURES: column(FEATURES, 0.1)}

    def velocity(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        return {IMAGE: torch.ones(1, 1, 1, 1).bfloat16(), FEATURES: torch.full((1, 1, 1), torch.inf)}

    end = MeanFlowSolver(MeanFlowSolver.Config(), SolverSetting(streams=TWO)).integrate(velocity, start, path, no_noise)
    assert torch.equal(end[FEATURES], start[FEATURES])
    torch.testing.assert_close(end[IMAGE], column(IMAGE, 1.0))  # float32, whatever the velocity's type
