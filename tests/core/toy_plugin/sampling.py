"""Processes, guidance and a solver whose numbers are simple."""

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from vco.api import (
    IMAGE,
    Condition,
    Guidance,
    GuidanceSetting,
    Noise,
    Process,
    ProcessSetting,
    Solver,
    SolverSetting,
    Streams,
    Times,
    Velocity,
)


class Tokens(Process):
    """A time of its own for each of 16 tokens; a token counts the more, the less noise it has."""

    def __init__(self, config: Process.Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.streams = tuple(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        t = torch.rand(batch, 16, generator=generator)
        return dict.fromkeys(self.streams, t)

    def path(self, steps: int) -> Times:
        return dict.fromkeys(self.streams, torch.linspace(0, 1, steps + 1, dtype=torch.float64))

    def weight(self, times: Times) -> Times:
        return {stream: 0.5 + t for stream, t in times.items()}


class Learned(Tokens):
    """Times, one a sample, and weights that move with a parameter."""

    def __init__(self, config: Process.Config, setting: ProcessSetting) -> None:
        super().__init__(config, setting)
        self.shift = nn.Parameter(torch.full((), 0.1))

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        t = torch.sigmoid(torch.randn(batch, generator=generator) + self.shift)
        return dict.fromkeys(self.streams, t)

    def weight(self, times: Times) -> Times:
        return {stream: 1 + self.shift * t for stream, t in times.items()}


class Branches(Guidance):
    """Twice the difference from the branch without a label, which is evaluated only up to a time."""

    @attrs.frozen(kw_only=True)
    class Config(Guidance.Config):
        """What a user may set."""

        until: float = 1.0
        """Time from which on there is one branch."""

    def __init__(self, config: Config, setting: GuidanceSetting) -> None:
        super().__init__()
        self.config = config
        self.num_classes = setting.num_classes

    def condition(self, labels: Tensor, generator: torch.Generator) -> Condition:
        return Condition(labels=labels)

    def branches(self, labels: Tensor, times: Mapping[str, float]) -> dict[str, Condition]:
        null = Condition(labels=torch.full_like(labels, self.num_classes))
        both = {"null": null, "label": Condition(labels=labels)}
        return both if times[IMAGE] < self.config.until else {"label": both["label"]}

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        if "null" not in velocities:
            return velocities["label"]
        null, label = velocities["null"], velocities["label"]
        return {stream: null[stream] + 2 * (label[stream] - null[stream]) for stream in label}


class Leap(Solver):
    """Euler's method with mean velocities."""

    needs_until: ClassVar[bool] = True

    def __init__(self, config: Solver.Config, setting: SolverSetting) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        for k in range(len(path[IMAGE]) - 1):
            now, until = ({s: t[i].item() for s, t in path.items()} for i in (k, k + 1))
            v = velocity(state, now, until)
            state = {s: x + (until[s] - now[s]) * v[s] for s, x in state.items()}
        return state
