"""Checkpoints: one folder per step, safetensors and JSON only, whole or not there, every byte checked on loading.

Write aside -> fsync -> manifest with the size and sha256 of every file -> rename -> fsync -> prune afterwards. So a
kill at any moment leaves the newest whole checkpoint usable, and damage is found instead of loaded (docs/concepts.md,
"Checkpoints").
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vco.errors import TrainingStoppedError, UserError
from vco.storage.files import fsync

MANIFEST = "MANIFEST.json"
STATE = "state.json"
FORMAT = 1


@attrs.frozen(kw_only=True)
class Checkpoint:
    """What a checkpoint holds."""

    step: int
    """Optimizer steps done."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """File stem ("model", "ema-0", "optimizer") -> name -> tensor."""
    state: Mapping[str, Any]
    """Plain data beside the tensors."""


def save(folder: Path, checkpoint: Checkpoint, keep: int, report: Callable[[str], None] = print) -> Path:
    """Writes `folder`/step-00001000 and then prunes to the `keep` newest checkpoints.

    Args:
        folder: the run's `checkpoints` folder.
        checkpoint: what to write.
        keep: how many of the newest stay.
        report: called with a sentence about an old checkpoint that cannot be removed.

    Raises:
        TrainingStoppedError: if it cannot be written (full disk, folder removed); older ones are untouched then.
    """
    try:
        final = write(folder, checkpoint)
    except (OSError, SafetensorError) as error:
        raise TrainingStoppedError(
            f"training stopped: cannot write checkpoint {_path(folder, checkpoint.step)}: {error}; older checkpoints "
            "are untouched: put that right, then the same command goes on from the newest"
        ) from error
    # later ones are damaged, like one that was here, and must not push out a whole one
    for old in [path for path in _steps(folder) if _step(path) <= checkpoint.step][keep:]:
        try:
            _remove(old)
        except OSError as error:
            report(f"the old checkpoint {old} cannot be removed ({error.strerror}); it stays")
    return final


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder`/step-00001000, whole or not at all; returns its path.

    Raises:
        OSError: if it cannot be written; before anything is, where the disk has too little space.
        SafetensorError: if it cannot be written, too.
    """
    final = _path(folder, checkpoint.step)
    aside = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(exist_ok=True)
        for stale in folder.glob(".*.tmp"):
            _remove(stale)
        _require_space(folder, checkpoint)
        aside.mkdir()
        for stem, tensors in checkpoint.tensors.items():
            # copied even from the CPU: safetensors refuses tensors that share memory, such as tied weights
            copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
            save_file(copies, aside / f"{stem}.safetensors")
        state = {"format": FORMAT, "step": checkpoint.step, **checkpoint.state}
        (aside / STATE).write_text(json.dumps(state, indent=1))
        manifest = {path.name: _fingerprint(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for name in (*manifest, MANIFEST, "."):
            fsync(aside / name)
        if final.exists():  # only a damaged one can be there: a whole one would have been resumed from
            _remove(final)
        aside.rename(final)
        fsync(folder)
    except (OSError, SafetensorError):
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def _require_space(folder: Path, checkpoint: Checkpoint) -> None:
    """Raises `OSError` if the disk has too little space: an error in the midst of writing would take as long."""
    needed = sum(tensor.nbytes for tensors in checkpoint.tensors.values() for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({sizes})")


def _remove(path: Path) -> None:
    """Removes what is there: a folder, a file, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def load_newest(folder: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none at all.

    Args:
        folder: the run's `checkpoints` folder.
        report: called with a sentence about every damaged checkpoint that is passed over.

    Raises:
        UserError: if there are checkpoints but all are damaged.
    """
    candidates = _steps(folder)
    for path in candidates:
        try:
            return load(path)
        except UserError as error:
            report(f"{error}; falling back to the one before")
    if candidates:
        raise UserError(f"every checkpoint in {folder} is damaged; move the folder away to start afresh")
    return None


def load_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of one step.

    Raises:
        UserError: if there is none (those that there are are named), or it is damaged.
    """
    path = _path(folder, step)
    if not path.is_dir():
        present = ", ".join(str(_step(known)) for known in reversed(_steps(folder))) or "none at all"
        raise UserError(f"there is no checkpoint of step {step} in {folder}; there are those of steps {present}")
    return load(path)


def fingerprints(folder: Path, step: int) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint that was loaded, by its name, as in "ema-0.safetensors"."""
    manifest: dict[str, dict[str, Any]] = json.loads((_path(folder, step) / MANIFEST).read_text())
    return {name: expected["sha256"] for name, expected in manifest.items()}


def load(path: Path) -> Checkpoint:
    """One checkpoint, after checking every byte of it.

    Raises:
        UserError: naming the file that is missing, superfluous, truncated or altered.
    """
    try:
        manifest: dict[str, dict[str, Any]] = json.loads((path / MANIFEST).read_text())
        present = {file.name for file in path.iterdir()} - {MANIFEST}
        if odd := present ^ manifest.keys():
            raise ValueError(f"{', '.join(sorted(odd))} missing or unexpected")
        for name, expected in manifest.items():
            if _fingerprint(path / name) != expected:
                raise ValueError(f"{name} differs from what was written")
        state = json.loads((path / STATE).read_text())
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']} is not the {FORMAT} that this version reads")
        if path.name != f"step-{state['step']:08d}":
            raise ValueError(f"it holds step {state['step']}")
        tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, RecursionError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error})") from error
    return Checkpoint(step=state["step"], tensors=tensors, state=state)


def _steps(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = (path for path in folder.glob("step-*") if path.name[5:].isdecimal() and path.is_dir())
    return sorted(found, key=_step, reverse=True)


def state_of(folder: Path, step: int) -> dict[str, Any]:
    """The plain data of a checkpoint that was loaded."""
    return json.loads((_path(folder, step) / STATE).read_text())


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _step(path: Path) -> int:
    return int(path.name[5:])


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
