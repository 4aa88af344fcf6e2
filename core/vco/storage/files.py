"""Files that are either whole or not there, and a lock so that two runs never share a folder."""

import fcntl
import os
from pathlib import Path
from typing import IO

from vco.errors import UserError


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


def lock(folder: Path) -> IO[str]:
    """Creates a run folder and locks it until the returned file is closed or the process ends, however it ends.

    Raises:
        UserError: if it cannot be written to, or another process holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot write to the run folder {folder}: {error.strerror}; choose another one with --output-dir"
        ) from error
    try:
        # unlike flock, not inherited by reader processes, which may outlive a killed run by seconds
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(
            f"another run is writing to {folder}; wait for it or choose another folder with --output-dir"
        ) from error
    return file
