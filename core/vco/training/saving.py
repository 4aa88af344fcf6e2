"""Saving while training goes on: the step waits for a copy of what is saved, and a thread writes that.

A save takes the host memory of one copy: of the weights, the averages and the optimizer's state in the first process,
or of its pieces of them in each process that shares them out. At most one is under way.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from vco.distributed import errors_shared, exchange
from vco.errors import UserError
from vco.storage import checkpoint
from vco.storage.checkpoint import Checkpoint
from vco.storage.publishing import PATIENCE, Copied, Writers
from vco.storage.tensor_files import HostCopies


class Saver:
    """Writes the checkpoints of a run, one after the other."""

    def __init__(
        self, folder: Path, keep: int, accelerator: Accelerator, say: Callable[[str], None], *, in_pieces: bool = False
    ) -> None:
        """Begins nothing; every process makes one.

        Args:
            folder: the run's `checkpoints` folder.
            keep: how many of the newest stay.
            accelerator: the processes.
            say: called with a sentence about what could not be done at last.
            in_pieces: whether each process writes its pieces of the tensors; else the first one writes all.

        Raises:
            UserError: in all processes, if they write pieces and one of them does not see the same folder.
        """
        self.folder, self.keep, self.say = folder, keep, say
        self._writers = _writers(folder.parent, accelerator) if in_pieces else Writers()
        self._writes = in_pieces or accelerator.is_main_process
        self._copies = HostCopies()
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, saved: Checkpoint) -> None:
        """Copies a checkpoint and begins to write it, after the one before.

        Raises:
            TrainingStoppedError: if the one before could not be written.
        """
        self.wait()
        if self._writes:
            copied = Copied.of(saved.step, saved.tensors, saved.state, self._copies, self._writers.rank)
            self._thread = Thread(target=self._write, args=(copied,), name="saving", daemon=True)
            self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether what was to be written could not be; `wait` tells why."""
        return self._error is not None

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            TrainingStoppedError: if it could not be.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Waits, and says what could not be written: whoever ends early has an error of his own to raise.

        Of several processes that write together some may be gone then; nobody waits for long.
        """
        if self._thread is not None and self._writers.count > 1:
            self._thread.join(PATIENCE)
            self._thread = None
        try:
            self.wait()
        except UserError as error:
            self.say(str(error))

    def _write(self, copied: Copied) -> None:
        try:
            checkpoint.save_copied(self.folder, copied, self.keep, self._writers, self.say)
        except Exception as error:  # which is raised where it is waited for
            self._error = error


def _writers(run: Path, accelerator: Accelerator) -> Writers:
    """The processes as those who write together, if all of them see the same run folder."""
    (name,) = broadcast_object_list([f"{os.getpid()}-{time.time_ns()}"])
    mark, main = run / f".{name}.seen", accelerator.is_main_process
    with errors_shared():
        if main:
            mark.touch()
    try:
        with errors_shared():
            _require_seen(mark)
    finally:
        if main:
            mark.unlink(missing_ok=True)
    count = accelerator.num_processes
    return Writers(rank=accelerator.process_index, count=count, exchange=exchange("saving"), name=name)


def _require_seen(mark: Path) -> None:
    """Raises `UserError` if a file of the first process does not appear here."""
    until = time.monotonic() + PATIENCE
    while not mark.exists():
        if time.monotonic() > until:
            raise UserError(
                f"the run folder {mark.parent} is not that of process 0; with --train.sharding fsdp each process "
                "writes a part of the checkpoints, so it must lie on storage that all of them share"
            )
        time.sleep(0.1)
