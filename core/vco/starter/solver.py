"""The solver `my-solver`: how sampling gets from noise to data along the velocity.

The contract is `vco.api.Solver`. Every call of `velocity` is an evaluation of the network, for each branch of guidance.
"""

from collections.abc import Mapping

import attrs
from attrs.validators import and_, gt, lt

from vco.api import Noise, Solver, SolverSetting, Streams, Times, Velocity


class MySolver(Solver):
    """Two-stage Runge-Kutta: second order, two network evaluations a step, none of them at t = 1.

    With k1 at the beginning and k2 at a share a of the step, the slope is k1 + (k2 - k1) / 2a.
    """

    @attrs.frozen(kw_only=True)
    class Config(Solver.Config):
        """What a user may set."""

        at: float = attrs.field(default=0.5, validator=and_(gt(0.0), lt(1.0)))
        """Share of a step after which the second velocity is taken, in (0, 1); 1/2: midpoint rule, 2/3: Ralston's."""

    def __init__(self, config: Config, setting: SolverSetting) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        """From `state` at path[0] to data at path[-1]; `path` holds [steps + 1] times of every stream.

        `velocity(state, times, until)` takes for every stream the time of its state and that at which the step ends. A
        stochastic solver adds `noise(k)` in its k-th step.
        """
        at = self.config.at
        points = {stream: times.tolist() for stream, times in path.items()}
        for k in range(len(next(iter(path.values()))) - 1):
            now, end = ({stream: t[i] for stream, t in points.items()} for i in (k, k + 1))
            step = {stream: end[stream] - t for stream, t in now.items()}
            first = velocity(state, now, end)
            between = _move(state, first, {stream: at * h for stream, h in step.items()})
            second = velocity(between, {stream: now[stream] + at * h for stream, h in step.items()}, end)
            slope = {stream: v + (second[stream] - v) / (2 * at) for stream, v in first.items()}
            state = _move(state, slope, step)
        return state


def _move(state: Streams, slope: Streams, step: Mapping[str, float]) -> Streams:
    """The float32 state after a step; a stream whose time rests is left alone, even if its velocity is infinite."""
    return {stream: x + step[stream] * slope[stream].float() if step[stream] else x for stream, x in state.items()}
