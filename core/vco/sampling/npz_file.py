"""A file for NumPy: images, labels, and what they are. It is put together from parts, so that memory stays flat."""

import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.lib import format as npy
from torch import Tensor

from vco.errors import UserError
from vco.sampling.outputs import Output
from vco.sampling.request import Request
from vco.storage.files import fsync, lock, write_atomic

DESCRIPTION: Final = "sample"
"""Entry of the file that says what the images are, as JSON text."""


class NpzFile(Output):
    """`images` uint8 [n, h, w, c], `labels` int64 [n] and `sample`, a text of JSON.

    Until all images are there they lie in a hidden folder beside it, a file for each batch.
    """

    @property
    def parts(self) -> Path:
        """The folder of what is made so far."""
        return self.path.with_name(f".{self.path.name}.parts")

    def check(self) -> None:
        """Raises `UserError` if it cannot be a file; creates nothing."""
        super().check()
        if self.path.is_dir():
            raise UserError(f"cannot write to {self.path}: it is a folder; choose another --out")

    def begin(self, request: Request) -> IO[str]:
        """As in `Output`."""
        if self.path.exists():
            self._require_same(self._description(), request, self.path)
        begun = self.parts / f"{DESCRIPTION}.json"
        if begun.is_file():
            self._require_same(begun.read_text(errors="replace"), request, self.parts)
        held = lock(self.parts, "vco sample", "--out")
        write_atomic(begun, request.text(complete=False))
        for stale in self.parts.glob(".*.tmp"):
            stale.unlink()
        return held

    def missing(self, request: Request) -> list[bool]:
        """Of each image, whether no part has it."""
        missing = [not self.path.exists()] * request.num
        for start, stop, _ in self._parts():
            missing[start:stop] = [False] * (min(stop, request.num) - start)
        return missing

    def write(self, pool: Executor, start: int, images: UInt8[Tensor, "n c h w"]) -> Sequence[Future[None]]:
        """Has a part written."""
        return [pool.submit(self._write_part, start, images)]

    def finish(self, request: Request) -> None:
        """Puts the file together, unless it is there, and removes the parts."""
        if not self.path.exists():
            aside = self.parts / f".{self.path.name}.tmp"
            channels, height, width = request.facts.image_shape
            with zipfile.ZipFile(aside, "w") as archive:
                self._put(archive, "images", (request.num, height, width, channels), np.uint8, self._images())
                labels = request.labels_of(range(request.num)).numpy()
                self._put(archive, "labels", labels.shape, np.int64, [labels])
                text = np.array(request.text(complete=True))
                self._put(archive, DESCRIPTION, (), text.dtype, [text])
            fsync(aside)
            os.replace(aside, self.path)
        shutil.rmtree(self.parts)

    def first(self, count: int) -> UInt8[Tensor, "count c h w"]:
        """The first images, without reading the others."""
        with zipfile.ZipFile(self.path) as archive, archive.open("images.npy") as file:
            npy.read_magic(file)
            shape, _, _ = npy.read_array_header_1_0(file)
            pixels = np.frombuffer(file.read(count * int(np.prod(shape[1:]))), np.uint8)
        return torch.from_numpy(pixels.reshape(count, *shape[1:]).copy()).permute(0, 3, 1, 2)

    def _write_part(self, start: int, images: UInt8[Tensor, "n c h w"]) -> None:
        buffer = BytesIO()
        np.save(buffer, images.permute(0, 2, 3, 1).contiguous().numpy())
        write_atomic(self.parts / f"{start}-{start + len(images)}.npy", buffer.getvalue())

    def _parts(self) -> list[tuple[int, int, Path]]:
        """(first image, one after the last, file) of each part, in order; those of other batch sizes may overlap."""
        ends = {path: path.stem.split("-") for path in self.parts.glob("*-*.npy")}
        return sorted((int(start), int(stop), path) for path, (start, stop) in ends.items())

    def _images(self) -> Iterator[Any]:
        """All images in order, a stretch at a time."""
        done = 0
        for start, stop, path in self._parts():
            if stop > done:
                yield np.load(path)[done - start :]
                done = stop

    @staticmethod
    def _put(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: Any, pieces: Any) -> None:
        """Writes an array as `numpy.savez` does, piece by piece."""
        header = {"descr": npy.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            npy.write_array_header_1_0(file, header)
            for piece in pieces:
                file.write(np.ascontiguousarray(piece).tobytes())

    def _description(self) -> str:
        """What the finished file says of its images."""
        try:
            with np.load(self.path) as file:
                return str(file[DESCRIPTION])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} is there and not a file of vco sample; choose another --out") from error

    @staticmethod
    def _require_same(text: str, request: Request, where: Path) -> None:
        before = request.require_same(text, where)
        if before != request.num:
            raise UserError(
                f"{where} is for {before} images, and {request.num} are asked for: set --num {before}, or choose "
                "another --out"
            )
