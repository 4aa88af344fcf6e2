"""A folder, or a zip file, of images: with classes or without, with a held-out part or without."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Final, Literal

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, instance_of, lt, optional
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vco.api import Data, DataSetting, ImageSet, UserError
from vco_plugins.pictures import center_crop, read_picture, shown
from vco_plugins.trees import Tree, open_tree, share_of

HELD_OUT: Final = ("val", "test")
"""Folders that may hold the held-out images; the first that is there does."""
USUAL: Final = (1000, 256)
"""Classes and size where there is nothing yet that they could be read from: ImageNet's."""
LOOKED_AT: Final = 100
"""Images that are tried to find out their size."""
LARGEST: Final = 256
"""Size that is not exceeded unless it is asked for."""


@attrs.frozen(kw_only=True)
class _Part:
    """The training or the held-out part: names of images below the root, and the class of each."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    """Name of each image's class."""


class ImageFolder(Data):
    """Images in a folder or a zip file, cropped as in ADM (Dhariwal & Nichol 2021).

    Four layouts are read: ROOT/train/CLASS/ with ROOT/val/CLASS/ (or test/); the same without a held-out part;
    ROOT/CLASS/; and images right in ROOT, which are one class. Where nothing is held out, a share of the images is,
    chosen by the hash of their names. Classes are numbered in the alphabetical order of their folders' names. All
    images are converted to RGB, turned upright, and read with 8 bits a channel.

    Source: the crop is `center_crop_arr` of Dhariwal & Nichol 2021 (ADM), as in all ImageNet-256 protocols.
    """

    @attrs.frozen(kw_only=True)
    class Config(Data.Config):
        """What a user may set."""

        root: str = attrs.field(default="", validator=instance_of(str), metadata={"location": True})
        """Folder or zip file: train/CLASS/ and val/CLASS/ (or test/), or CLASS/, or images without classes."""
        size: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Side of the square images in pixels, at least 1; by default the largest power of 2, up to 256, that is no
        larger than the first image."""
        classes: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Number of classes, at least 1, if another number of class folders is to be refused; by default theirs."""
        flip: bool = attrs.field(default=True, validator=instance_of(bool))
        """Whether half of the training images, drawn at random, are mirrored left to right."""
        held_out: float = attrs.field(default=0.1, validator=and_(gt(0.0), lt(1.0)))
        """Share of the images that is held out where there is no folder val or test, in (0, 1)."""
        on_bad: Literal["stop", "skip"] = "stop"
        """What an image that cannot be read does: it ends the run, after saving, or the next one of its class is read
        in its place; the run folder lists them in bad-images.txt."""

    def __init__(self, config: Config, setting: DataSetting) -> None:
        self.config = config
        self.tree: Tree | None = open_tree(config.root)
        self.num_classes = config.classes or (len(self._classes) if self.tree else USUAL[0])
        size = config.size or (self._size_of_first if self.tree else USUAL[1])
        self.image_shape = (3, size, size)

    def class_names(self) -> Sequence[str]:
        return self._classes

    def check(self) -> None:
        if not self.config.root:
            raise UserError(
                "it needs --data.root: a folder or zip file with images, in train/CLASS/ and val/CLASS/, in CLASS/, or "
                "without classes."
            )
        if self.tree is None:
            raise UserError(
                f"There is no folder and no zip file {shown(self.config.root)} (from --data.root); give the one that "
                "holds the images."
            )
        train, test = self._parts
        for part, what in ((train, "training"), (test, "held-out")):
            if not part.names:
                raise UserError(f"{shown(self.config.root)} (from --data.root) has no {what} images.")
        if len(self._classes) != self.num_classes:
            raise UserError(
                f"{shown(self.config.root)} (from --data.root) has {len(self._classes)} classes with images, but "
                f"--data.classes is {self.num_classes}; set --data.classes {len(self._classes)}, or leave it out."
            )
        if odd := sorted(set(test.classes) - set(self._classes)):
            raise UserError(
                f"The held-out images in {shown(self.config.root)} (from --data.root) have the class {shown(odd[0])}, "
                "which no training image has; move its images, or add some to the training set."
            )

    def train(self) -> ImageSet:
        return self._images(self._parts[0], flip=self.config.flip)

    def test(self) -> ImageSet:
        return self._images(self._parts[1], flip=False)

    def _images(self, part: _Part, *, flip: bool) -> ImageSet:
        assert self.tree is not None, "whoever asks for images has called `check`"
        numbers = {name: number for number, name in enumerate(self._classes)}
        labels = torch.tensor([numbers[name] for name in part.classes])
        return _Files(self.tree, part.names, labels, size=self.image_shape[1], flip=flip, on_bad=self.config.on_bad)

    @cached_property
    def _classes(self) -> list[str]:
        """The classes of the training images, in alphabetical order."""
        return sorted(set(self._parts[0].classes))

    @cached_property
    def _parts(self) -> tuple[_Part, _Part]:
        """The training and the held-out images."""
        assert self.tree is not None, "there is nothing to list"
        folders = {name.partition("/")[0] for name in self.tree.names if "/" in name}
        held_out = next((folder for folder in HELD_OUT if folder in folders), None)
        if "train" not in folders and held_out is None:
            return self._split(self.tree.names)
        train = [name for name in self.tree.names if name.startswith("train/")]
        if held_out is None:
            return self._split(train, "train/")
        test = [name for name in self.tree.names if name.startswith(f"{held_out}/")]
        return _part(train, "train/"), _part(test, f"{held_out}/")

    def _split(self, names: Sequence[str], below: str = "") -> tuple[_Part, _Part]:
        """Holds out a share of the images, always the same ones: those whose names have the smallest hashes."""
        kept = [name for name in names if share_of(name) >= self.config.held_out]
        return _part(kept, below), _part([name for name in names if share_of(name) < self.config.held_out], below)

    @cached_property
    def _size_of_first(self) -> int:
        """The largest power of 2, up to `LARGEST`, that is no larger than the first image that can be read."""
        assert self.tree is not None, "there is nothing to look at"
        for name in self.tree.names[:LOOKED_AT]:
            with suppress(UserError):  # said when it is read in earnest
                return min(LARGEST, 2 ** (min(self._picture(name).size).bit_length() - 1))
        return LARGEST

    def _picture(self, name: str) -> Image.Image:
        assert self.tree is not None, "there is nothing to look at"
        return read_picture(self.tree.open(name), self.tree.path(name))


def _part(names: Sequence[str], below: str) -> _Part:
    """Images whose class is the first folder below `below`; those that lie in none are one class."""
    inside = [name.removeprefix(below) for name in names]
    return _Part(names=tuple(names), classes=tuple(name.rpartition("/")[0].partition("/")[0] for name in inside))


class _Files(ImageSet):
    def __init__(
        self,
        tree: Tree,
        names: Sequence[str],
        labels: Tensor,
        *,
        size: int,
        flip: bool,
        on_bad: Literal["stop", "skip"],
    ) -> None:
        self.tree, self.names, self.labels = tree, names, labels
        self.size, self.flip, self.on_bad = size, flip, on_bad

    def file(self, index: int) -> tuple[str, bytes]:
        with self.tree.open(name := self.names[index]) as file:
            return name.rpartition(".")[2].lower(), file.read()

    def identity(self) -> Iterator[bytes]:
        for name in self.names:
            yield name.encode()

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        name = self.names[index]
        picture = center_crop(read_picture(self.tree.open(name), self.tree.path(name)), self.size)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        if self.flip and generator is not None and torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        return pixels.contiguous()
