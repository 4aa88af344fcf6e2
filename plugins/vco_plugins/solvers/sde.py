"""Euler-Maruyama."""

from collections.abc import Mapping

import attrs
import numpy as np
import torch
from attrs.validators import and_, gt, lt

from vco.api import IMAGE, Noise, Solver, SolverSetting, Streams, Times, Velocity


class SDE(Solver):
    """Euler-Maruyama: a stochastic solver whose noise corrects earlier errors, one evaluation a step [SiT; REPA].

    dx = ((1 + t) v - x) dt + sqrt(2 (1 - t)) dW, that is the velocity plus half of w_t = 2 (1 - t) times the score
    (t v - x) / (1 - t). The step in which a stream reaches t = 1 has no noise and goes over `last_step`; the steps
    before it are spread evenly over the rest, so that 250 steps of one time are linspace(0, 0.96, 250) and then 1.
    Streams may have times of their own; a stream whose time stands still in a step is left exactly as it is.

    Source: SiT (arXiv 2401.08740), its sampler with "sigma" diffusion and "mean" last step; REPA (arXiv 2410.06940).
    """

    @attrs.frozen(kw_only=True)
    class Config(Solver.Config):
        """What a user may set."""

        last_step: float = attrs.field(default=0.04, validator=and_(gt(0.0), lt(1.0)))
        """Length of the last step, without noise, in (0, 1) (REPA: 0.04)."""

    def __init__(self, config: Config, setting: SolverSetting) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        points = {name: times.tolist() for name, times in retimed(path, self.config.last_step).items()}
        for k in range(len(next(iter(points.values()))) - 1):
            now, after = ({name: t[i] for name, t in points.items()} for i in (k, k + 1))
            slope = velocity(state, now, after)
            noisy = any(now[name] < after[name] < 1 for name in now)
            state = _advance(state, slope, now, after, noise(k) if noisy else {})
        return state


def _advance(
    state: Streams, slope: Streams, now: Mapping[str, float], after: Mapping[str, float], noise: Streams
) -> Streams:
    result: Streams = {}
    for name, x in state.items():
        t, step = now[name], after[name] - now[name]
        if step:  # 0 * slope would not do: it turns an infinite slope into nan
            x = x + step * ((1 + t) * slope[name].float() - x)
            if after[name] < 1:
                x = x + (2 * (1 - t) * step) ** 0.5 * noise[name]
        result[name] = x
    return result


def retimed(path: Times, last_step: float) -> Times:
    """Moves the points of a path so that the step in which a stream reaches t = 1 is `last_step` long.

    Between two such arrivals the other points are spread evenly, along the path, over what is left. Where several
    streams arrive together the last step is measured on the image.
    """
    index = np.arange(len(next(iter(path.values()))), dtype=np.float64)
    times = {name: t.numpy() for name, t in path.items()}
    arrivals = {name: int((t < 1).sum()) for name, t in times.items()}
    parts, start = [np.zeros(1)], 0
    for end in sorted(set(arrivals.values()) - {0}):
        together = [name for name in arrivals if arrivals[name] == end]
        arriving = times[IMAGE if IMAGE in together else together[0]]
        before_last = max(np.interp(1 - last_step, arriving, index), start)
        parts += [np.linspace(start, before_last, end - start)[1:], np.array([float(end)])]
        start = end
    at = np.concatenate(parts)
    return {name: torch.from_numpy(np.interp(at, index, t)) for name, t in times.items()}
