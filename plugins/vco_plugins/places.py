"""Where large files lie that are read in parts: a folder on disk, or a location that fsspec knows."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from vco.api import UserError
from vco_plugins.pictures import shown

OPEN_FILES: Final = 64
"""Files that a process keeps open; systems allow about a thousand."""


class Place(ABC):
    """Files with flat names; it can be sent to reader processes, which open the files for themselves."""

    def __init__(self, root: str) -> None:
        self.root = root

    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file that is there; raises `UserError` if the place cannot be looked at."""

    @abstractmethod
    def content(self, name: str) -> bytes | None:
        """A whole file; None if it is not there. Raises `UserError` if it cannot be read."""

    @abstractmethod
    def fill(self, name: str, start: int, into: UInt8[np.ndarray, "..."]) -> int:
        """Reads from byte `start` on, until the array is full or the file ends; the number of bytes read.

        Raises:
            UserError: if the file cannot be read.
        """

    def path(self, name: str) -> str:
        """Where a file is, for messages."""
        return shown(f"{self.root.rstrip('/')}/{name}")

    def unreadable(self, name: str, error: Exception) -> UserError:
        """What is raised where a file cannot be read."""
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
        return UserError(f"{self.path(name)} cannot be read ({' '.join(reason.split())}).")


class _OpenFile:
    """A file that is open as long as anybody holds this."""

    def __init__(self, path: Path, ahead: bool) -> None:
        self.handle = os.open(path, os.O_RDONLY)
        if ahead and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.handle, 0, 0, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


class LocalPlace(Place):
    """A folder on disk, or on a network disk that looks like one.

    Args:
        root: the folder.
        ahead: whether the system is asked, when a file is first read from, to fetch the whole of it.
    """

    def __init__(self, root: str, *, ahead: bool = False) -> None:
        super().__init__(root)
        self.ahead = ahead
        self._forget()

    def _forget(self) -> None:
        # a thread that reads from a file holds it, so that it stays open when others push it out of here
        self._opened = lru_cache(OPEN_FILES)(self._open)

    def _open(self, name: str) -> _OpenFile:
        return _OpenFile(Path(self.root) / name, self.ahead)

    def sizes(self) -> Mapping[str, int]:
        try:
            with os.scandir(self.root) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except OSError as error:
            raise self.unreadable("", error) from error

    def content(self, name: str) -> bytes | None:
        try:
            return (Path(self.root) / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self.unreadable(name, error) from error

    def fill(self, name: str, start: int, into: UInt8[np.ndarray, "..."]) -> int:
        rest, done = into.reshape(-1).data, 0
        try:
            file = self._opened(name)
            while rest and (count := os.preadv(file.handle, [rest], start + done)):
                rest, done = rest[count:], done + count
        except OSError as error:
            raise self.unreadable(name, error) from error
        return done

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._forget()


class RemotePlace(Place):
    """A location with a protocol, as in s3://bucket/folder; every process connects for itself."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._connected: tuple[int, Any, str] | None = None

    def _connect(self) -> tuple[Any, str]:
        """The file system, and the folder in it."""
        if self._connected is None or self._connected[0] != os.getpid():  # connections do not survive a fork
            import fsspec

            self._connected = (os.getpid(), *fsspec.core.url_to_fs(self.root))
        return self._connected[1:]

    def sizes(self) -> Mapping[str, int]:
        try:
            files, folder = self._connect()
            found = files.ls(folder, detail=True)
        except Exception as error:  # each service has its own classes of errors
            raise self.unreadable("", error) from error
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in found if entry["type"] == "file"}

    def content(self, name: str) -> bytes | None:
        try:
            files, folder = self._connect()
            return files.cat_file(f"{folder.rstrip('/')}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self.unreadable(name, error) from error

    def fill(self, name: str, start: int, into: UInt8[np.ndarray, "..."]) -> int:
        flat = into.reshape(-1)
        try:
            files, folder = self._connect()
            found: bytes = files.cat_file(f"{folder.rstrip('/')}/{name}", start=start, end=start + flat.size)
        except Exception as error:
            raise self.unreadable(name, error) from error
        flat[: len(found)] = np.frombuffer(found, np.uint8)
        return len(found)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connected": None}


def open_place(root: str, *, ahead: bool = False) -> Place:
    """The place at a path or at a location that begins with a protocol."""
    return RemotePlace(root) if "://" in root else LocalPlace(root, ahead=ahead)
