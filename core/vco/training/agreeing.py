"""The checkpoint that a run goes on from: the same one, byte by byte, in every process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from vco.errors import UserError
from vco.storage import checkpoint
from vco.storage.checkpoint import Checkpoint


def agreed_checkpoint(folder: Path, rank: int, count: int, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that process 0 can read; None if there is none at all.

    Process 0 decides. The others load the same step and compare the hashes of its files: on disks of their own they
    might hold another checkpoint, and would train on other weights.

    Args:
        folder: the run's `checkpoints` folder, as this process sees it.
        rank: number of this process.
        count: number of processes.
        say: called with a sentence about every damaged checkpoint that is passed over.

    Raises:
        UserError: in all processes if process 0 finds only damaged ones; in a process that does not see the same one.
    """
    newest: Checkpoint | None = None
    decision: list[Any] = [None]
    if rank == 0:
        try:
            newest = checkpoint.load_newest(folder, say)
            decision = [(newest.step, checkpoint.fingerprints(folder, newest.step))] if newest else [None]
        except UserError as error:
            decision = [str(error)]
    if count > 1:
        broadcast_object_list(decision)
    match decision[0]:
        case str(sentence):
            raise UserError(sentence)
        case (int(step), dict(prints)) if rank:
            return _the_same(folder, step, prints)
        case _:
            return newest


def _the_same(folder: Path, step: int, prints: dict[str, str]) -> Checkpoint:
    """The checkpoint of a step, if it is the one that process 0 has."""
    shared = f"every process must see the same run folder {folder.parent}, on storage that they share"
    try:
        found = checkpoint.load_step(folder, step)
    except UserError as error:
        raise UserError(f"process 0 goes on from step {step}, and here {error}; {shared}") from error
    here = checkpoint.fingerprints(folder, step)
    if odd := sorted(name for name, digest in prints.items() if here.get(name) != digest):
        raise UserError(f"the checkpoint of step {step} has another {odd[0]} here than for process 0; {shared}")
    return found
