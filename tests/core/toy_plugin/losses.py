"""Losses that use what a step offers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from vco.api import IMAGE, Loss, LossSetting, Step


class Square(Loss):
    """The mean square of the predicted image."""

    needs_features: ClassVar[bool] = False

    def __init__(self, config: Loss.Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        return {"square": step.denoised.clean[IMAGE].square().mean((1, 2, 3))}


class Asking(Square):
    """How far the network is from its own average at another noise level."""

    needs_teacher: ClassVar[bool] = True

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        later = {stream: 0.5 + 0.5 * t for stream, t in step.times.items()}
        asked = step.network(step.noised(later), later, step.condition).velocity[IMAGE]
        taught = step.teacher(step.noisy, step.times, step.condition).velocity[IMAGE]
        return {"asking": (asked - taught).square().mean((1, 2, 3))}


class AtATime(Square):
    """Has the network asked at one time, and says which."""

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        share: float = 0.5
        """Share of the time that was drawn."""

    def prepare(self, step: Step) -> Step:
        return step.asking(times={s: self.config.share * t for s, t in step.times.items()})

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        return {"time": step.times[IMAGE].view(len(step.labels), -1).mean(1)}


class Drawing(Square):
    """Random numbers: drawn while it prepares, and drawn for its terms."""

    def prepare(self, step: Step) -> Step:
        context = {**step.condition.context, "drawn": step.generator.rand(2)}
        return step.asking(condition=replace(step.condition, context=context))

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        drawn = step.condition.context["drawn"]
        return {"prepared": drawn.mean(1), "forward": step.generator.rand(2).mean(1)}


class Instead(Square):
    """Takes the place of the denoising loss."""

    replaces_denoising: ClassVar[bool] = True


class OfTheWay(Square):
    """Has the network told the time that a step goes to."""

    needs_until: ClassVar[bool] = True

    def prepare(self, step: Step) -> Step:
        until = {s: torch.ones_like(t) for s, t in step.times.items()}
        return step.asking(condition=replace(step.condition, until=until))
