"""Images and stored latents in the folder layout of REPA, REG and their relatives."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np
import torch
from attrs.validators import ge, instance_of, optional
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vco.api import MOMENTS, Data, DataSetting, ImageSet, UserError

LATENTS: Final = "vae-sd"
IMAGES: Final = ("images", "imagenet_256_vae")
"""Folders of the images: REPA's and REG's."""
NUMBER: Final = re.compile(r"(\d{8})\.\w+$")
"""What pairs an image with its latents: the number at the end of both names."""


def _is_none_or_some(config: "RepaLatents.Config", attribute: "attrs.Attribute[int]", value: int) -> None:
    if value < 0 or value == 1:
        raise ValueError(f"held_out must be 0 or at least 2, got {value}")


class RepaLatents(Data):
    """A folder with images and stored latents as REPA's preprocessing writes them, read as it is.

    `vae-sd/dataset.json` lists latents with their labels, `vae-sd/00000/img-mean-std-00000000.npy` holds mean and
    standard deviation of an image's latents, and `images/00000/img00000000.png` is that image, already cropped. An
    image belongs to the latents with its number; the published code pairs the two lists by position. Latents are of the
    images as they are, so that none is mirrored. The folder has no held-out images: with `held_out` some are set apart,
    and without, scores compare with the training images.

    Give the codec with which the latents were made (sd-vae-ft-mse for the published ones), which decodes.

    Source: REPA (arXiv 2410.06940), the layout of its preprocessing.
    """

    @attrs.frozen(kw_only=True)
    class Config(Data.Config):
        """What a user may set."""

        root: str = attrs.field(default="", validator=instance_of(str), metadata={"location": True})
        """Folder that holds `vae-sd` and `images` (or `imagenet_256_vae`)."""
        size: int = attrs.field(default=256, validator=ge(1))
        """Side of the images in pixels, at least 1."""
        held_out: int = attrs.field(default=0, validator=_is_none_or_some)
        """Every so-manyth image is held out, at least 2; 0 trains on all of them, as published."""
        classes: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Number of classes, at least 1; by default one more than the largest label."""

    def __init__(self, config: Config, setting: DataSetting) -> None:
        self.config = config
        self.root = Path(config.root)
        self.image_shape = (3, config.size, config.size)
        listed = self.root / LATENTS / "dataset.json"
        known = config.classes is None and listed.is_file()
        largest = max(_labels(listed).values(), default=0) + 1 if known else 1000
        self.num_classes = config.classes or largest

    def check(self) -> None:
        if not (self.root / LATENTS / "dataset.json").is_file():
            raise UserError(
                f"{self.config.root or 'nothing'} (from --data.root) is no folder with {LATENTS}/dataset.json, which "
                "lists latents with their labels; give --data.root FOLDER"
            )
        self.train()

    def train(self) -> ImageSet:
        every = self.config.held_out
        return self._paired(lambda place: not every or place % every < every - 1)

    def test(self) -> ImageSet:
        every = self.config.held_out
        return self._paired(lambda place: not every or place % every == every - 1)

    def _paired(self, kept: Callable[[int], bool]) -> "_Paired":
        labels = _labels(self.root / LATENTS / "dataset.json")
        if not labels:
            raise UserError(f"{self.root / LATENTS / 'dataset.json'} lists no latents")
        if max(labels.values()) >= self.num_classes:
            raise UserError(
                f"{self.root} has the label {max(labels.values())}, and --data.classes is {self.num_classes}; leave "
                "it out"
            )
        folder = next((self.root / name for name in IMAGES if (self.root / name).is_dir()), None)
        if folder is None:
            raise UserError(f"{self.root} (from --data.root) has no folder {IMAGES[0]} beside {LATENTS}")
        images = {_number(path.name): path for path in sorted(folder.glob("*/*")) if NUMBER.search(path.name)}
        lost = [name for name in labels if _number(name) not in images]
        if lost:
            raise UserError(f"{folder} has no image for {LATENTS}/{lost[0]} ({len(lost)} are missing); get it anew")
        names = [name for place, name in enumerate(sorted(labels, key=_number)) if kept(place)]
        files = [(self.root / LATENTS / name, images[_number(name)]) for name in names]
        return _Paired(files, torch.tensor([labels[name] for name in names]), self.config.size)


class _Paired(ImageSet):
    def __init__(self, files: Sequence[tuple[Path, Path]], labels: Tensor, size: int) -> None:
        self.files, self.labels, self.size = files, labels, size

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        path = self.files[index][1]
        try:
            with Image.open(path) as picture:
                pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        except OSError as error:
            raise UserError(f"{path} is no picture that can be read; get it anew") from error
        if pixels.shape[1:] != (self.size, self.size):
            found = "x".join(map(str, pixels.shape[1:]))
            raise UserError(
                f"{path} has {found} pixels, and --data.size is {self.size}; set --data.size {pixels.shape[1]}"
            )
        return pixels

    def extras(self, index: int) -> Mapping[str, Tensor]:
        path = self.files[index][0]
        try:
            moments = torch.from_numpy(np.load(path)).float()
        except (OSError, ValueError) as error:
            raise UserError(f"{path} holds no latents that can be read; get it anew") from error
        return {MOMENTS: moments.reshape(moments.shape[-3:])}  # some files have an axis of length 1 in front

    def identity(self) -> Iterator[bytes]:
        for latents, image in self.files:
            yield f"{latents.name} {image.name}".encode()


def _labels(path: Path) -> dict[str, int]:
    """Name of a file of latents -> its label."""
    try:
        return {str(name): int(label) for name, label in json.loads(path.read_text())["labels"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is no list of latents, as in {{"labels": [["00000/a-00000000.npy", 3]]}}') from error


def _number(name: str) -> str:
    found = NUMBER.search(name)
    if found is None:
        raise UserError(f"{name} does not end with a number of eight digits, which pairs latents with an image")
    return found[1]
