"""The embedded photographs: clothes, as their owners photographed them."""

import json
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any, Final, Literal

import attrs
import numpy as np
import torch
from attrs.validators import instance_of
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vco.api import Data, DataSetting, ImageSet

SIDE: Final = 32


class Clothing32(Data):
    """4,961 photographs of clothes at 32x32 pixels in 14 unbalanced classes (CC0), 4,471 to train on.

    The photographs were cropped to their central square and averaged down to 32x32. The split is by the hash of the
    original images' names. They ship in two large JPEG files (quality 95, full colors; 38.6 dB from the pixels before).

    Source: Grigorev 2020, "Clothing dataset", github.com/alexeygrigorev/clothing-dataset (CC0 1.0), without the classes
    "Not sure", "Skip", "Other" and those of fewer than 80 images.
    """

    @attrs.frozen(kw_only=True)
    class Config(Data.Config):
        """What a user may set."""

        flip: bool = attrs.field(default=True, validator=instance_of(bool))
        """Whether half of the training images, drawn at random, are mirrored left to right."""

    num_classes = 14
    image_shape = (3, SIDE, SIDE)

    def __init__(self, config: Config, setting: DataSetting) -> None:
        self.config = config

    def class_names(self) -> Sequence[str]:
        return self._about["classes"]

    def train(self) -> ImageSet:
        return self._images("train", flip=self.config.flip)

    def test(self) -> ImageSet:
        return self._images("test", flip=False)

    @cached_property
    def _about(self) -> dict[str, Any]:
        return json.loads(files("vco_plugins.data").joinpath("clothing32.json").read_text())

    def _images(self, split: Literal["train", "test"], *, flip: bool) -> ImageSet:
        """The images of a split, which are sorted by class, from left to right and top to bottom of their file."""
        counts = torch.tensor(self._about[split])
        labels = torch.arange(len(counts)).repeat_interleave(counts)
        with files("vco_plugins.data").joinpath(f"clothing32_{split}.jpg").open("rb") as file:
            sheet = torch.from_numpy(np.array(Image.open(file)))
        tiles = sheet.unflatten(1, (-1, SIDE)).unflatten(0, (-1, SIDE)).permute(0, 2, 4, 1, 3).flatten(0, 1)
        return _Tiles(tiles[: len(labels)].contiguous(), labels, flip=flip)


class _Tiles(ImageSet):
    def __init__(self, images: UInt8[Tensor, "size 3 32 32"], labels: Tensor, *, flip: bool) -> None:
        self.images, self.labels, self.flip = images, labels, flip

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        if self.flip and generator is not None and torch.rand((), generator=generator) < 0.5:
            return self.images[index].flip(-1)
        return self.images[index].clone()  # the caller may write into it
