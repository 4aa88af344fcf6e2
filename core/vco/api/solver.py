"""The contract of solvers: integrators of sampling."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import attrs

from vco.api.component import Component
from vco.api.streams import Streams, StreamSpec, Times

Velocity = Callable[[Streams, Mapping[str, float], Mapping[str, float]], Streams]
"""(noisy streams, time of each stream, time the step goes to) -> guided velocity of each stream; one evaluation.

Velocities may come in any float dtype: convert them before adding, as in `x + h * v.float()`.

A network that is told where a step goes (`Condition.until`) answers with the mean velocity of the way; all others with
the velocity at the present time.
"""
Noise = Callable[[int], Streams]
"""k -> the k-th fresh noise of every stream, of its scale; row i depends only on k, the seed and the image index."""


@attrs.frozen(kw_only=True)
class SolverSetting:
    """What a solver is told of the run."""

    streams: Mapping[str, StreamSpec]
    """Every stream of the run."""


class Solver(Component):
    """Integrates dx = v dt for all streams along a path. Constructed as `Class(config, SolverSetting)`."""

    guides_by_step: bool = False
    """Whether all evaluations of a step are guided as its first one is, by the time at which the step begins; an
    evaluation at the time that the step goes to is then its second. Otherwise each is guided by its own time."""
    needs_until: ClassVar[bool] = False
    """Whether it makes steps with mean velocities, so that the network must be told where a step goes."""

    @abstractmethod
    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        """From noise to data, float32; `path` is what `Process.path` gives, on the CPU. `state` is not modified."""
