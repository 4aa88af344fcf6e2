"""A folder of images: 000000.png and so on, labels.csv, and sample.json, which says what they are."""

import csv
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from io import StringIO
from pathlib import Path
from typing import IO, Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vco.errors import UserError
from vco.sampling.outputs import Output
from vco.sampling.pictures import png, to_image
from vco.sampling.request import Request
from vco.storage.files import lock, write_atomic

DESCRIPTION: Final = "sample.json"
LABELS: Final = "labels.csv"


class PngFolder(Output):
    """A folder of PNG files. What is there is whole, so that a killed command goes on with what is missing."""

    def image(self, index: int) -> Path:
        """The file of an image."""
        return self.path / f"{index:06d}.png"

    def check(self) -> None:
        """Raises `UserError` if it cannot be a folder of images; creates nothing."""
        super().check()
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"cannot write to {self.path}: it is a file, and no folder; choose another --out")

    def begin(self, request: Request) -> IO[str]:
        """As in `Output`; more images than before may be asked for, and not fewer."""
        channels = request.facts.image_shape[0]
        if channels not in (1, 3):
            raise UserError(f"images of {channels} channels are no PNG files; choose --out FILE.npz")
        if self.path.is_dir():
            self._require_same(request)
        held = lock(self.path, "vco sample", "--out")
        for stale in self.path.glob(".*.tmp"):
            stale.unlink()
        write_atomic(self.path / LABELS, _table(request))
        write_atomic(self.path / DESCRIPTION, request.text(complete=False))
        return held

    def missing(self, request: Request) -> list[bool]:
        """Of each image, whether its file is not there."""
        there = {path.name for path in self.path.iterdir()}
        return [self.image(index).name not in there for index in range(request.num)]

    def write(self, pool: Executor, start: int, images: UInt8[Tensor, "n c h w"]) -> Sequence[Future[None]]:
        """Has each image encoded and written."""
        return [pool.submit(self._write_one, start + row, image) for row, image in enumerate(images)]

    def finish(self, request: Request) -> None:
        """Says that the images are all there."""
        write_atomic(self.path / DESCRIPTION, request.text(complete=True))

    def first(self, count: int) -> UInt8[Tensor, "count c h w"]:
        """The first images, read from their files."""
        images: list[Tensor] = []
        for index in range(count):
            with Image.open(self.image(index)) as file:
                pixels = torch.from_numpy(np.array(file))
            images.append(pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1))
        return torch.stack(images)

    def _write_one(self, index: int, image: UInt8[Tensor, "c h w"]) -> None:
        write_atomic(self.image(index), png(to_image(image)))

    def _require_same(self, request: Request) -> None:
        description = self.path / DESCRIPTION
        if not description.is_file():
            if any(not path.name.startswith(".") for path in self.path.iterdir()):
                raise UserError(f"{self.path} holds other files; choose a new or empty folder with --out")
            return
        before = request.require_same(description.read_text(errors="replace"), self.path)
        if before > request.num:
            raise UserError(
                f"{self.path} was begun with {before} images, and {request.num} are asked for: set --num {before} or "
                "more, or choose another --out"
            )


def _table(request: Request) -> str:
    """labels.csv: file, label and class name of each image."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "label", "class"])
    for index, label in enumerate(request.labels_of(range(request.num)).tolist()):
        table.writerow([f"{index:06d}.png", label, request.name_of(label)])
    return text.getvalue()
