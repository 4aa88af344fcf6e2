"""Files that are either whole or not there, and a lock so that two runs never share a folder."""

import fcntl
import hashlib
import os
import platform
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from tqdm import tqdm

from vco.errors import UserError

PIECE: Final = 2**22
"""Bytes that are hashed at a time."""
LOCK: Final = ".lock"
"""The file that is locked in a folder which only one process may write to."""


def fsync(path: Path) -> None:
    """Makes a file's content, or a folder's renames and new entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes a file aside, syncs it and renames it into place.

    Raises:
        OSError: with its path, if it cannot be written (permissions, full disk); the old file is then unchanged.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def require_place(path: Path, option: str) -> None:
    """Raises `UserError` if a file cannot be written at a path, before hours are spent on what it would hold.

    Args:
        path: where the file is to be; one that is there will be replaced.
        option: the option that has named it, for messages.
    """
    above = path.absolute().parent
    if path.is_dir():
        raise UserError(f"{option} {path}: that is a folder; name a file")
    if not above.is_dir():
        lack = f"{path.parent} is a file" if above.exists() else f"there is no folder {path.parent}; make it first"
        raise UserError(f"{option} {path}: {lack}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: nothing can be written to {above}; choose another place")


@contextmanager
def new_folder(folder: Path) -> Generator[Path]:
    """A folder to write to that becomes `folder` when all is written; nothing is left of it if an error comes between.

    Raises:
        UserError: if there is something already, but for an empty folder, or it cannot be made.
        OSError: if it cannot be written to the end.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists already; choose another --out, or move that away")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    try:
        yield aside
        fsync(aside)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def gone_if_empty(folder: Path) -> Generator[None]:
    """Removes a folder that is made within, with those above it, if nothing but a lock is in it at the end."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # there is something in it
            if new and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
            for place in new:
                place.rmdir()


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as plain data."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; what takes long shows its progress."""
    digest = hashlib.sha256()
    bar = tqdm(
        total=path.stat().st_size, desc="hashing", unit="B", unit_scale=True, delay=1.0, leave=False, disable=None
    )
    with path.open("rb") as file, bar:
        while chunk := file.read(PIECE):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def lock(folder: Path, what: str = "run", option: str = "--output-dir") -> IO[str]:
    """Creates a folder and locks it until the returned file is closed or the process ends, however it ends.

    Args:
        folder: what only one process at a time may write to.
        what: what is written there, for messages.
        option: the option that chooses another folder, for messages.

    Raises:
        UserError: if it cannot be written to, or another process holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        place = f"the {what} folder {folder}" if what == "run" else f"the folder {folder}"
        raise UserError(f"cannot write to {place}: {error.strerror}; choose another one with {option}") from error
    try:
        # unlike flock, not inherited by reader processes, which may outlive a killed run by seconds
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        who = file.readline(100).strip()
        file.close()
        by = f" ({who})" if who.isprintable() and who else ""
        raise UserError(
            f"another {what} is writing to {folder}{by}; wait for it or choose another folder with {option}"
        ) from error
    with suppress(OSError):  # a full disk must not keep a run from saying that it is finished
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
    return file
