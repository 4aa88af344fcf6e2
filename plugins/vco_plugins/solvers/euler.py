"""Euler's method."""

from vco.api import Noise, Solver, SolverSetting, Streams, Times, Velocity


class Euler(Solver):
    """Euler's method: first order, one network evaluation a step.

    Streams may have times of their own; a stream whose time stands still in a step is left exactly as it is.
    """

    def __init__(self, config: Solver.Config, setting: SolverSetting) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        points = {name: times.tolist() for name, times in path.items()}
        for k in range(len(next(iter(path.values()))) - 1):
            now, after = ({name: t[i] for name, t in points.items()} for i in (k, k + 1))
            slope = velocity(state, now, after)
            delta = {name: after[name] - now[name] for name in now}
            # 0 * slope would not do: it turns an infinite slope into nan
            state = {name: x + delta[name] * slope[name].float() if delta[name] else x for name, x in state.items()}
        return state
