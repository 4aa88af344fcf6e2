"""Images of which one cannot be read."""

import multiprocessing
import os
import signal
import time

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


class _KillingImages(_Images):
    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        if index == 17 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().image(index, None)


class Deadly(Spoilt):
    """Gray squares, one of which kills the process that reads it, unless that is the training process."""

    def train(self) -> ImageSet:
        return _KillingImages(UserError("not used"))


class _EndlessImages(_Images):
    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        if self.fatal and index == 17 and multiprocessing.parent_process() is not None:
            time.sleep(600)
        return super().image(index, None)


class EndlessForOne(Spoilt):
    """Gray squares, one of which a reader of process 1 never finishes to read."""

    def train(self) -> ImageSet:
        return _EndlessImages(UserError("not used"), fatal=os.environ.get("RANK") == "1")


class Shapeless(Spoilt):
    """Does not say how large its images are."""

    @property
    def image_shape(self) -> tuple[int, int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise AttributeError("image_shape")
