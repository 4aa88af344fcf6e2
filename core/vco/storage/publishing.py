"""How a checkpoint comes into its folder: every process writes aside, and one renames when all is on the disk."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
from safetensors import SafetensorError
from torch import Tensor

from vco.storage.files import fingerprint, fsync
from vco.storage.tensor_files import HostCopies, Pieces, write_pieces

MANIFEST: Final = "MANIFEST.json"
STATE: Final = "state.json"
FORMAT: Final = 1
PATIENCE: Final = 10.0
"""Seconds until a file that one process has written is visible to another one, at the latest."""


@attrs.frozen(kw_only=True)
class Copied:
    """What a process is to write of a checkpoint: copies, so that training may go on meanwhile."""

    step: int
    """Optimizer steps done."""
    pieces: Pieces
    state: Mapping[str, Any]
    """Plain data beside the tensors."""
    bytes: int
    """Size of all tensors of the checkpoint."""

    @classmethod
    def of(
        cls,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        copies: HostCopies,
        rank: int = 0,
    ) -> "Copied":
        """Copies this process's pieces of the tensors; raises `UserError` if one cannot be stored."""
        size = sum(tensor.nbytes for part in tensors.values() for tensor in part.values())
        return cls(step=step, pieces=copies.of(tensors, rank), state=state, bytes=size)


def _alone(said: str) -> Sequence[str]:
    return [said]


@attrs.frozen(kw_only=True)
class Writers:
    """The processes that write a checkpoint together; by default there is one."""

    rank: int = 0
    """Number of this process."""
    count: int = 1
    exchange: Callable[[str], Sequence[str]] = _alone
    """Gives what every process has said, in the order of processes, when all have said something."""
    name: str = attrs.field(factory=lambda: str(os.getpid()))
    """The same for all of them and for nobody else: where they write aside has it in its name."""


def publish(folder: Path, copied: Copied, writers: Writers) -> Path:
    """Writes `folder`/step-00001000, whole or not at all; every process that writes calls this. Returns its path.

    Raises:
        OSError: in all of them if one cannot write; before anything is, where the disk has too little space.
        SafetensorError: likewise.
    """
    final = step_path(folder, copied.step)
    aside = folder / f".{final.name}.{writers.name}.tmp"
    main = writers.rank == 0
    try:
        parts = _together(writers, partial(_write_aside, folder, aside, copied, writers))
        _together(writers, partial(_complete, aside, final, copied, parts) if main else dict[str, Any])
    except (OSError, SafetensorError):
        if main:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def _together(writers: Writers, work: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """What the work of every process gives, as plain data; raises in all of them if that of one fails."""
    failure: OSError | SafetensorError | None = None
    given: dict[str, Any] = {}
    try:
        given = work()
    except (OSError, SafetensorError) as error:
        failure = error
    said = [json.loads(one) for one in writers.exchange(json.dumps([given, None if failure is None else str(failure)]))]
    if failure is not None:
        raise failure
    for number, (_, error) in enumerate(said):
        if error is not None:
            raise OSError(f"process {number}: {error}")
    return [one for one, _ in said]


def _write_aside(folder: Path, aside: Path, copied: Copied, writers: Writers) -> dict[str, Any]:
    """Writes this process's files; returns their fingerprints."""
    folder.mkdir(exist_ok=True)
    if writers.rank == 0:
        for stale in folder.glob(".*.tmp"):
            if stale != aside or writers.count == 1:
                remove(stale)
        _require_space(folder, copied.bytes)
    aside.mkdir(exist_ok=writers.count > 1)
    return write_pieces(aside, copied.pieces, writers.rank, writers.count)


def _complete(aside: Path, final: Path, copied: Copied, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Completes what all processes have written aside, and renames it."""
    for number, part in enumerate(parts):
        for name, expected in part.items():
            _await(aside / name, expected["bytes"], number)
    state = {"format": FORMAT, "step": copied.step, **copied.state}
    (aside / STATE).write_text(json.dumps(state, indent=1))
    manifest = {name: expected for part in parts for name, expected in part.items()}
    manifest[STATE] = fingerprint(aside / STATE)
    (aside / MANIFEST).write_text(json.dumps(dict(sorted(manifest.items())), indent=1))
    for path in aside.iterdir():  # what a process of the same name was killed over
        if path.name != MANIFEST and path.name not in manifest:
            remove(path)
    for name in (STATE, MANIFEST, "."):
        fsync(aside / name)
    if final.exists():  # only a damaged one can be there: a whole one would have been resumed from
        remove(final)
    aside.rename(final)
    fsync(final.parent)
    return {}


def _await(path: Path, size: int, number: int) -> None:
    """Waits until a file of another process is visible here; raises `OSError` if it never is."""
    until = time.monotonic() + PATIENCE
    while not (path.exists() and path.stat().st_size == size):
        if time.monotonic() > until:
            raise OSError(
                f"process 0 does not see {path.name} of process {number}: every process must see the same run folder, "
                "on storage that they share"
            )
        time.sleep(0.1)


def _require_space(folder: Path, needed: int) -> None:
    """Raises `OSError` if the disk has too little space: an error in the midst of writing would take as long."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({sizes})")


def remove(path: Path) -> None:
    """Removes what is there: a folder, a file, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def step_path(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return folder / f"step-{step:08d}"
