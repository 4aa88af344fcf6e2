"""The contract of data sets."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import attrs
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vco.api.component import Component

LOOKED_AT: Final = 16
"""Images whose pixels identify a set that knows nothing better."""


@attrs.frozen(kw_only=True)
class Blocks:
    """Images that lie together, as in a file of many, and are best read at about the same time."""

    sizes: Sequence[int]
    """Images of each block, in the order of the images; at least 1."""
    window: int
    """Blocks whose images are shuffled among each other, at least 1. An epoch runs through the blocks in random order,
    so many at a time."""


class ImageSet(ABC):
    """A labelled list of images that can be read in any order, from any worker process."""

    labels: Int[Tensor, " size"]
    """Class of every image; known without reading the images, so that batches can be grouped."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What an image does whose `image` raises `UserError`: it ends the run, or another of its class is read instead."""
    blocks: Blocks | None = None
    """How an epoch is shuffled where reading any image next would be slow; None shuffles all images at once."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        """Image `index`; augmented with draws from `generator`, or plain if that is None."""

    def extras(self, index: int) -> Mapping[str, Tensor]:
        """What travels with image `index`: a caption's tokens, cached features, by name. Default: nothing.

        Every image has the same names with tensors of the same shape. In training the network finds them in
        `Condition.context` and losses in `Step.extras`, [b, ...] each.
        """
        return {}

    def visit(self, index: int, generator: torch.Generator | None) -> tuple[UInt8[Tensor, "c h w"], dict[str, Tensor]]:
        """Image `index` and what travels with it, where the same draw decides about both. Default: one by one."""
        return self.image(index, generator), dict(self.extras(index))

    def file(self, index: int) -> tuple[str, bytes] | None:
        """The picture file that image `index` is read from: its ending, as in "jpg", and its bytes. Default: none.

        The plain image is that picture in RGB, upright, resized and center-cropped as in ADM (Dhariwal & Nichol 2021).
        """
        return None

    def identity(self) -> Iterator[bytes]:
        """What tells these images from others with the same labels, wherever they lie; some seconds at most.

        Default: a few images. A set of files yields their names below its folder.
        """
        for index in torch.linspace(0, len(self) - 1, min(len(self), LOOKED_AT)).round().long().tolist():
            yield self.image(index, None).contiguous().numpy().tobytes()


@attrs.frozen(kw_only=True)
class DataSetting:
    """What a data set is told of the run: nothing yet."""


class Data(Component):
    """A training set and a held-out set. Constructed as `Class(config, DataSetting)`: cheap, and reads no files."""

    num_classes: int
    image_shape: tuple[int, int, int]
    """(c, h, w) of every image."""

    def class_names(self) -> Sequence[str]:
        """Name of each class, in the order of their numbers. Default: the numbers."""
        return [str(number) for number in range(self.num_classes)]

    def check(self) -> None:
        """Raises `UserError` if files it needs are missing, naming the option that says where they are."""

    @abstractmethod
    def train(self) -> ImageSet:
        """The training set."""

    @abstractmethod
    def test(self) -> ImageSet:
        """The held-out set, never trained on."""
