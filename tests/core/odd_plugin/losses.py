"""Losses that no one should write."""

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from vco.api import PIXELS, Loss, Step, StreamSpec


class _Odd(Loss):
    """What both have in common."""

    needs_features: ClassVar[bool] = False

    def __init__(
        self, config: Loss.Config, *, width: int, tap_grid: tuple[int, int], features: StreamSpec | None
    ) -> None:
        super().__init__()
        self.config = config


class NanLater(_Odd):
    """Finite at first, NaN from some step on."""

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        after: int = 3
        """The first step, counted from 1, that is NaN."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        value = step.denoised.clean[PIXELS].square().mean()
        return {"nan-later": value * (float("nan") if step.number + 1 >= self.config.after else 1.0)}


class Broken(_Odd):
    """Raises what no one has foreseen."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        raise RuntimeError("a mistake in a plugin")


class Restless(_Odd):
    """Draws from the ambient generator, as dropout does."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        clean = step.denoised.clean[PIXELS]
        return {"restless": (clean * torch.randn_like(clean)).mean()}
