"""Checkpoints: one folder per step, safetensors and JSON only, whole or not there, every byte checked on loading.

Write aside -> fsync -> manifest with the size and sha256 of every file -> rename -> fsync -> prune afterwards. So a
kill at any moment leaves the newest whole checkpoint usable, and damage is found instead of loaded (docs/concepts.md,
"Checkpoints"). Several processes may write one together, each its pieces of the tensors (`tensor_files`).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from torch import Tensor

from vco.errors import TrainingStoppedError, UserError
from vco.storage.files import fingerprint
from vco.storage.publishing import FORMAT, MANIFEST, STATE, Copied, Writers, publish, remove, step_path
from vco.storage.tensor_files import HostCopies, open_tensors


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
    """Writes `folder`/step-00001000 and then prunes to the `keep` newest checkpoints; arguments as in `save_copied`."""
    return save_copied(folder, _copied(checkpoint), keep, Writers(), report)


def save_copied(
    folder: Path, copied: Copied, keep: int, writers: Writers, report: Callable[[str], None] = print
) -> Path:
    """Writes a checkpoint whose tensors have been copied, and then prunes to the `keep` newest ones.

    Args:
        folder: the run's `checkpoints` folder.
        copied: what to write.
        keep: how many of the newest stay.
        writers: the processes that write it; every one of them calls this.
        report: called with a sentence about an old checkpoint that cannot be removed.

    Raises:
        TrainingStoppedError: in all processes if one cannot write (full disk, folder removed); older ones are untouched
            then.
    """
    try:
        final = publish(folder, copied, writers)
    except (OSError, SafetensorError) as error:
        raise TrainingStoppedError(
            f"training stopped: cannot write checkpoint {step_path(folder, copied.step)}: {error}; older checkpoints "
            "are untouched: put that right, then the same command goes on from the newest"
        ) from error
    if writers.rank == 0:
        _prune(folder, copied.step, keep, report)
    return final


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder`/step-00001000, whole or not at all; returns its path.

    Raises:
        OSError: if it cannot be written; before anything is, where the disk has too little space.
        SafetensorError: if it cannot be written, too.
    """
    return publish(folder, _copied(checkpoint), Writers())


def _copied(checkpoint: Checkpoint) -> Copied:
    return Copied.of(checkpoint.step, checkpoint.tensors, checkpoint.state, HostCopies())


def _prune(folder: Path, step: int, keep: int, report: Callable[[str], None]) -> None:
    """Removes checkpoints before the `keep` newest ones up to a step."""
    # later ones are damaged, like one that was here, and must not push out a whole one
    for old in [path for path in _steps(folder) if _step(path) <= step][keep:]:
        try:
            remove(old)
        except OSError as error:
            report(f"the old checkpoint {old} cannot be removed ({error.strerror}); it stays")


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
    path = step_path(folder, step)
    if not path.is_dir():
        present = ", ".join(str(_step(known)) for known in reversed(_steps(folder))) or "none at all"
        raise UserError(f"there is no checkpoint of step {step} in {folder}; there are those of steps {present}")
    return load(path)


def fingerprints(folder: Path, step: int) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint that was loaded, by its name, as in "ema-0.safetensors"."""
    manifest: dict[str, dict[str, Any]] = json.loads((step_path(folder, step) / MANIFEST).read_text())
    return {name: expected["sha256"] for name, expected in manifest.items()}


def load(path: Path) -> Checkpoint:
    """One checkpoint, after checking every byte of it; its tensors are read when they are asked for.

    Raises:
        UserError: naming the file that is missing, superfluous, truncated or altered.
    """
    try:
        manifest: dict[str, dict[str, Any]] = json.loads((path / MANIFEST).read_text())
        present = {file.name for file in path.iterdir()} - {MANIFEST}
        if odd := present ^ manifest.keys():
            raise ValueError(f"{', '.join(sorted(odd))} missing or unexpected")
        for name, expected in manifest.items():
            if fingerprint(path / name) != expected:
                raise ValueError(f"{name} differs from what was written")
        state = json.loads((path / STATE).read_text())
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']} is not the {FORMAT} that this version reads")
        if path.name != f"step-{state['step']:08d}":
            raise ValueError(f"it holds step {state['step']}")
        tensors = open_tensors(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, RecursionError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error})") from error
    return Checkpoint(step=state["step"], tensors=tensors, state=state)


def outline(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step with tensors on the meta device; nothing but names and shapes is read, or checked.

    Raises:
        OSError, ValueError, SafetensorError: if it is damaged so far that these cannot be read.
    """
    tensors = {
        stem: {name: torch.empty(shape, device="meta") for name, shape in stored.shapes.items()}
        for stem, stored in open_tensors(step_path(folder, step)).items()
    }
    return Checkpoint(step=step, tensors=tensors, state=state_of(folder, step))


def _steps(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = (path for path in folder.glob("step-*") if path.name[5:].isdecimal() and path.is_dir())
    return sorted(found, key=_step, reverse=True)


def state_of(folder: Path, step: int) -> dict[str, Any]:
    """The plain data of a checkpoint that was loaded."""
    return json.loads((step_path(folder, step) / STATE).read_text())


def _step(path: Path) -> int:
    return int(path.name[5:])
