"""Heun's method."""

from collections.abc import Mapping
from typing import Literal

import attrs
from attrs.validators import in_

from vco.api import Noise, Solver, SolverSetting, Streams, Times, Velocity


class Heun(Solver):
    """Heun's method: second order, two network evaluations a step, one in the last [EDM; JiT].

    The last step is Euler's, because the velocity's denominator 1 - t vanishes at its end. Streams may have
    times of their own; a stream whose time stands still in a step is left exactly as it is.

    Source: Karras et al. (arXiv 2206.00364), algorithm 1; JiT (arXiv 2511.13720); REPA (arXiv 2410.06940) guides by
        step.
    """

    @attrs.frozen(kw_only=True)
    class Config(Solver.Config):
        """What a user may set."""

        guidance: Literal["evaluation", "step"] = attrs.field(
            default="evaluation", validator=in_(("evaluation", "step"))
        )
        """What decides whether an evaluation is inside of guidance's interval: its own time (JiT), or the time at which
        its step begins (REPA)."""

    def __init__(self, config: Config, setting: SolverSetting) -> None:
        self.config = config
        self.guides_by_step = config.guidance == "step"

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        points = {name: times.tolist() for name, times in path.items()}
        steps = len(next(iter(path.values()))) - 1
        for k in range(steps):
            now, after = ({name: t[i] for name, t in points.items()} for i in (k, k + 1))
            delta = {name: after[name] - now[name] for name in now}
            slope = velocity(state, now, after)
            predicted = _advance(state, slope, delta)
            if k < steps - 1:
                corrected = velocity(predicted, after, after)
                state = _advance(state, {name: (v + corrected[name]) / 2 for name, v in slope.items()}, delta)
            else:
                state = predicted
        return state


def _advance(state: Streams, slope: Streams, delta: Mapping[str, float]) -> Streams:
    # 0 * slope would not do: it turns an infinite slope into nan
    return {name: x + delta[name] * slope[name].float() if delta[name] else x for name, x in state.items()}
