"""The solver of mean velocities."""

from typing import ClassVar

from vco.api import Noise, Solver, SolverSetting, Streams, Times, Velocity


class MeanFlow(Solver):
    """Steps with the mean velocity of each step, which the network is trained for: one evaluation a step [MeanFlow].

    A step from t to q adds (q - t) * u(x, t, q), and would be exact with the true mean velocity; --sample.steps 1 makes
    images in a single evaluation. A stream whose time stands still in a step is left exactly as it is.

    Source: Mean Flows for One-step Generative Modeling (arXiv 2505.13447).
    """

    needs_until: ClassVar[bool] = True

    def __init__(self, config: Solver.Config, setting: SolverSetting) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        points = {name: times.tolist() for name, times in path.items()}
        for k in range(len(next(iter(path.values()))) - 1):
            now, until = ({name: t[i] for name, t in points.items()} for i in (k, k + 1))
            mean = velocity(state, now, until)
            gap = {name: until[name] - now[name] for name in now}
            # 0 * mean would not do: it turns an infinite velocity into nan
            state = {name: x + gap[name] * mean[name].float() if gap[name] else x for name, x in state.items()}
        return state
