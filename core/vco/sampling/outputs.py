"""Where sampled images go. Each kind of place is written in pieces, by several processes, and can be gone on with."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from vco.errors import UserError
from vco.sampling.request import Request


class Output(ABC):
    """A place for images. The first process calls `begin`, `missing`, `finish` and `first`; each process `write`s."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def grid(self) -> Path:
        """The picture of its first images, beside it."""
        path = self.path if self.path.name not in ("", "..") else self.path.resolve()
        return path.with_name(f"{path.name.removesuffix('.npz')}-grid.png")

    def check(self) -> None:
        """Raises `UserError` if it cannot be written to; creates nothing."""
        above = self.path.absolute().parent
        while not above.exists():
            above = above.parent
        if not above.is_dir():
            raise UserError(f"cannot write to {self.path}: {above} is a file; choose another --out")
        # the grid lies beside it, so that an existing folder is not enough
        if closed := [place for place in (above, self.path) if place.is_dir() and not os.access(place, os.W_OK)]:
            raise UserError(f"cannot write to {self.path}: {closed[0]} is not writable; choose another --out")

    @abstractmethod
    def begin(self, request: Request) -> Any:
        """Takes hold of the place, so that nobody else writes to it.

        Returns:
            What holds it until it is closed.

        Raises:
            UserError: if it holds other images or other files, is in use, or cannot be written to.
        """

    @abstractmethod
    def missing(self, request: Request) -> list[bool]:
        """Of each image, whether it is still to be made."""

    @abstractmethod
    def write(self, pool: Executor, start: int, images: UInt8[Tensor, "n c h w"]) -> Sequence[Future[None]]:
        """Has the images from number `start` on written in other threads."""

    @abstractmethod
    def finish(self, request: Request) -> None:
        """All images are written: completes the place."""

    @abstractmethod
    def first(self, count: int) -> UInt8[Tensor, "count c h w"]:
        """The first images, after `finish`."""
