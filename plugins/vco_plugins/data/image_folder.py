"""Images in folders, one folder a class, as ImageNet is usually unpacked."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vco.api import Data, DataSetting, ImageSet, UserError


class ImageFolder(Data):
    """Images in ROOT/train/CLASS/ and ROOT/val/CLASS/ (or test/), cropped as in ADM (Dhariwal & Nichol 2021).

    Classes are numbered in the alphabetical order of their folders' names. All images are converted to RGB.

    Source: the crop is `center_crop_arr` of Dhariwal & Nichol 2021 (ADM), as in all ImageNet-256 protocols.
    """

    @attrs.frozen(kw_only=True)
    class Config(Data.Config):
        """What a user may set."""

        root: str = attrs.field(default="", validator=attrs.validators.instance_of(str), metadata={"location": True})
        """Folder that holds train/ and val/ (or test/), each with one folder of images per class."""
        size: int = attrs.field(default=256, validator=attrs.validators.ge(1))
        """Side of the square images in pixels, at least 1."""
        classes: int = attrs.field(default=1000, validator=attrs.validators.ge(1))
        """Number of classes, at least 1; must be the number of class folders."""
        flip: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))
        """Whether half of the training images, drawn at random, are mirrored left to right."""

    def __init__(self, config: Config, setting: DataSetting) -> None:
        self.config = config
        self.root, self.flip = config.root, config.flip
        self.num_classes = config.classes
        self.image_shape = (3, config.size, config.size)

    def check(self) -> None:
        from torchvision.datasets.folder import find_classes

        names: list[list[str]] = []
        for folder in (self._folder("train"), self._folder("val", "test")):
            try:
                names.append(find_classes(folder)[0])
            except FileNotFoundError:
                names.append([])
            if len(names[-1]) != self.num_classes:
                raise UserError(
                    f"{folder} (from --data.root) has {len(names[-1])} class folders, but --data.classes is "
                    f"{self.num_classes}; put each class into a folder of its own"
                    + (f", or set --data.classes {len(names[-1])}." if names[-1] else ".")
                )
        if names[0] != names[1]:
            example = sorted(set(names[0]) ^ set(names[1]))[0]
            raise UserError(
                f"The training and held-out sets in {self.root} (from --data.root) must have the same class "
                f"folders; {example!r} is in one of them only."
            )

    def class_names(self) -> Sequence[str]:
        from torchvision.datasets.folder import find_classes

        return find_classes(self._folder("train"))[0]

    def train(self) -> ImageSet:
        return self._images(self._folder("train"), flip=self.flip)

    def test(self) -> ImageSet:
        return self._images(self._folder("val", "test"), flip=False)

    def _folder(self, *names: str) -> Path:
        """The first of these subfolders that exists."""
        if not self.root:
            raise UserError(
                "it needs --data.root: a folder with train/ and val/ (or test/), each with a folder of images a class."
            )
        for name in names:
            if (Path(self.root) / name).is_dir():
                return Path(self.root) / name
        if not Path(self.root).is_dir():
            raise UserError(f"There is no folder {self.root} (from --data.root); give the folder that holds train/.")
        raise UserError(
            f"{self.root} (from --data.root) has no folder {' or '.join(names)}; give a folder that "
            "holds train/ and val/ (or test/), each with one folder of images per class."
        )

    def _images(self, folder: Path, *, flip: bool) -> ImageSet:
        from torchvision.datasets import ImageFolder as Listing

        try:
            samples = Listing(folder).samples
        except FileNotFoundError as error:  # a class without a readable image
            raise UserError(f"{folder} (from --data.root) cannot be used: {error}") from error
        return _Files(folder, samples, size=self.image_shape[1], flip=flip)


class _Files(ImageSet):
    def __init__(self, folder: Path, samples: list[tuple[str, int]], *, size: int, flip: bool) -> None:
        self.folder = folder
        self.paths = [path for path, _ in samples]
        self.labels = torch.tensor([label for _, label in samples])
        self.size = size
        self.flip = flip

    def identity(self) -> Iterator[bytes]:
        for path in self.paths:
            yield Path(path).relative_to(self.folder).as_posix().encode()

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        path = self.paths[index]
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB")
        # Pillow has no common base class for what its decoders raise on damaged files
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"The image {path} cannot be read ({error}); replace or remove it.") from error
        pixels = torch.from_numpy(np.array(center_crop(picture, self.size))).permute(2, 0, 1)
        if self.flip and generator is not None and torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        return pixels.contiguous()


def center_crop(picture: Image.Image, size: int) -> Image.Image:
    """The central square, `size` pixels wide, of a picture resized until its shorter side is `size`.

    Source: `center_crop_arr` of Dhariwal & Nichol 2021 (ADM): averaging halves while possible, then bicubic.
    """
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))
