"""Losses that no one should write."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from vco.api import IMAGE, Loss, LossSetting, Step


class _Odd(Loss):
    """What they have in common."""

    needs_features: ClassVar[bool] = False

    def __init__(self, config: Loss.Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        return {"odd": step.denoised.clean[IMAGE].square().mean()}


class NanLater(_Odd):
    """Finite at first, NaN from some step on."""

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        after: int = 3
        """The first step, counted from 1, that is NaN."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        value = step.denoised.clean[IMAGE].square().mean()
        return {"nan-later": value * (float("nan") if step.number + 1 >= self.config.after else 1.0)}


class NanOnce(_Odd):
    """NaN in one batch, whenever it comes, so that going on behind it helps."""

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        at: int = 3
        """The batch, counted from 0."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        value = step.denoised.clean[IMAGE].square().mean()
        first = step.generator.slots[0] // (20 // 2)  # half of the batch of a tiny run, or all of it
        spoilt = first // 2 == self.config.at
        return {"nan-once": value * (float("nan") if spoilt else 1.0)}


class Broken(_Odd):
    """Raises what no one has foreseen."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        raise RuntimeError("a mistake in a plugin")


class Restless(_Odd):
    """Draws from the ambient generator, as dropout does."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        clean = step.denoised.clean[IMAGE]
        return {"restless": (clean * torch.randn_like(clean)).mean()}


class Fragile(_Odd):
    """Cannot be built."""

    def __init__(self, config: Loss.Config, setting: LossSetting) -> None:
        raise KeyError("a key")


class OfAnotherTime(_Odd):
    """Has a constructor of its own design."""

    def __init__(self, config: Loss.Config, *, width: int) -> None:
        raise AssertionError


class IdleHead(_Odd):
    """Has weights that it uses, and weights that it does not."""

    def __init__(self, config: Loss.Config, setting: LossSetting) -> None:
        super().__init__(config, setting)
        self.used = torch.nn.Parameter(torch.ones(()))
        self.frozen = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.head = torch.nn.Linear(2, 2)

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        return {"idle-head": self.used * step.denoised.clean[IMAGE].square().mean()}


class Peeking(_Odd):
    """Looks at encoder features without having said so."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        return {"peeking": step.features().tokens.mean((1, 2))}


class PerToken(_Odd):
    """Gives a number for every pixel."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        return {"each": step.denoised.clean[IMAGE].square()}


class Numberless(_Odd):
    """Gives a number that is no tensor."""

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        return {"half": 0.5}  # pyright: ignore[reportReturnType]


class NewAuthor(_Odd):
    """Has an option that no configuration file can hold."""

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        folder: Path = Path()
        """Where something is."""
