"""Images of which one cannot be read."""

import os

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vco.api import Data, DataSetting, ImageSet, UserError


class _Images(ImageSet):
    def __init__(self, error: Exception, fatal: bool = True) -> None:
        self.labels: Int[Tensor, " size"] = torch.arange(40) % 10
        self.error = error
        self.fatal = fatal

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        if self.fatal and index == 17 and generator is not None:
            raise self.error
        return torch.full((1, 8, 8), index, dtype=torch.uint8)


class Spoilt(Data):
    """Gray squares, one of which cannot be read."""

    num_classes = 10
    image_shape = (1, 8, 8)

    def __init__(self, config: Data.Config, setting: DataSetting) -> None:
        self.config = config

    def train(self) -> ImageSet:
        return _Images(UserError("image 17 cannot be read; replace it"))

    def test(self) -> ImageSet:
        return self.train()


class Crashing(Spoilt):
    """Gray squares and a bug."""

    def train(self) -> ImageSet:
        return _Images(RuntimeError("a mistake in a plugin"))


class SpoiltForOne(Spoilt):
    """Gray squares, one of which only process 1 cannot read."""

    def train(self) -> ImageSet:
        return _Images(UserError("image 17 cannot be read; replace it"), fatal=os.environ.get("RANK") == "1")


class Shapeless(Spoilt):
    """Does not say how large its images are."""

    @property
    def image_shape(self) -> tuple[int, int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise AttributeError("image_shape")
