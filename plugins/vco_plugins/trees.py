"""Where image files lie: a folder on disk or a zip file, listed once and read in any order."""

import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from functools import cached_property
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Final

from vco.api import UserError
from vco_plugins.pictures import shown

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of the files that count as images, in any case."""


class Tree(ABC):
    """Image files below a root, by names with slashes; it can be sent to reader processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of all image files, sorted."""

    @abstractmethod
    def open(self, name: str) -> BufferedReader | BytesIO:
        """One of them, to be read; raises `UserError` if it is not there any more."""

    def path(self, name: str) -> str:
        """Where a file is, for messages."""
        return f"{self.root}/{name}"


class FolderTree(Tree):
    """A folder on disk."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        found: list[str] = []
        visited: set[str] = set()  # links may make a circle, or lead to one folder twice
        for here, folders, files in os.walk(self.root, followlinks=True):
            if (true := os.path.realpath(here)) in visited:
                folders.clear()
                continue
            visited.add(true)
            folders.sort()
            below = Path(here).relative_to(self.root).as_posix()
            beginning = "" if below == "." else f"{below}/"
            found += [beginning + name for name in files if is_image(name)]
        return tuple(sorted(found))

    def open(self, name: str) -> BufferedReader | BytesIO:
        try:
            return (self.root / name).open("rb")
        except OSError as error:
            raise UserError(f"The image {shown(self.path(name))} cannot be read ({error.strerror}).") from error


class ZipTree(Tree):
    """A zip file; every process opens it for itself."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in self._archive.namelist() if is_image(name.rpartition("/")[2])))

    def open(self, name: str) -> BufferedReader | BytesIO:
        try:
            return BytesIO(self._archive.read(name))
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError) as error:
            raise UserError(f"The image {shown(self.path(name))} cannot be read ({error}).") from error

    @property
    def _archive(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():  # processes must not share a place in the file
            self._opened = (os.getpid(), zipfile.ZipFile(self.root))
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}


def open_tree(root: str) -> Tree | None:
    """The folder or zip file at a path; None if there is neither."""
    path = Path(root)
    if root and path.is_dir():
        return FolderTree(path)
    return ZipTree(path) if root and path.is_file() and zipfile.is_zipfile(path) else None


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image; hidden files do not."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def share_of(name: str) -> float:
    """A number in [0, 1) that belongs to a name: uniform over names, and always the same."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
