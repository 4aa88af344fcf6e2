"""Folders of random pictures, and shards of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from vco.api import DataSetting
from vco.cli import main_vco
from vco_plugins.data.image_folder import ImageFolder
from vco_plugins.data.shards import Shards

TRAIN, TEST = 12, 3
"""Pictures of each class."""


def pictures(root: Path, ending: str = "png") -> Path:
    """Three classes of pictures of 20 x 24 pixels."""
    draws = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", TEST)):
        for name in ("ant", "bee", "cat"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number:02d}.{ending}")
    return root


def pack(root: Path, out: Path, *options: str) -> Path:
    """Shards of a folder, its pictures 8 x 8 where they are decoded."""
    assert main_vco(["data", "pack", str(root), "--out", str(out), "--data.size", "8", *options]) == 0
    return out


def shards(root: Path | str, **options: object) -> Shards:
    """The data set of a folder of shards."""
    return Shards(Shards.Config(root=str(root), **options), DataSetting())  # pyright: ignore[reportArgumentType]


def folder(root: Path, size: int = 8) -> ImageFolder:
    """The data set that was packed."""
    return ImageFolder(ImageFolder.Config(root=str(root), size=size), DataSetting())
