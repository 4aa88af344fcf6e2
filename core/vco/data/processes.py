"""Processes that read images for this one: how they begin, how their death is noticed, and that none is left over."""

import atexit
import multiprocessing
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, ClassVar, Final

import torch

LOST: Final = ("DataLoader worker (pid", "DataLoader timed out", "Pin memory thread exited")
"""How torch's errors begin that say that a reader is lost; errors within a reader begin otherwise."""
_READERS: set[BaseProcess] = set()
"""Reader processes that were started, to be ended with this process."""


def ignore_signals(worker: int) -> None:
    """Makes a reader process deaf to a scheduler that signals the whole process group.

    Readers that died first would keep the trainer from saving.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def remembered() -> Generator[None]:
    """Notes the reader processes that are started inside."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        readers = set(multiprocessing.active_children()) - before
        if readers and not _READERS:
            atexit.register(_end_readers)
        if readers:
            _Deaths.come_between()
        _READERS.update(readers)


@contextmanager
def deaths_noticed() -> Generator[None]:
    """Inside it, and nowhere else, the death of a reader is an error: torch's `RuntimeError`."""
    _Deaths.waiting = True
    try:
        if _Deaths.error is not None:
            raise _Deaths.error
        yield
    finally:
        _Deaths.waiting, _Deaths.error = False, None


def forget_death() -> None:
    """Forgets the death of a reader that was told of otherwise, and waits up to a second for its signal.

    It would be an error to whoever reads images next.
    """
    until = time.monotonic() + 1
    while _Deaths.error is None and time.monotonic() < until:
        time.sleep(0.01)
    _Deaths.error = None


class _Deaths:
    """Readers that were killed.

    Torch raises an error wherever the program happens to be, as in the midst of a step or a save. Here it is kept until
    images are waited for.
    """

    waiting: ClassVar[bool] = False
    error: ClassVar[RuntimeError | None] = None
    torchs: ClassVar[Any] = None
    """Torch's handler of the signal that a child has ended."""

    @classmethod
    def come_between(cls) -> None:
        """Takes the place of torch's handler, which is set when readers are first started in the main thread."""
        present = signal.getsignal(signal.SIGCHLD)
        main = threading.current_thread() is threading.main_thread()  # no other may set handlers
        if main and callable(present) and present != cls.child_ended:
            cls.torchs = present
            signal.signal(signal.SIGCHLD, cls.child_ended)

    @classmethod
    def child_ended(cls, number: int, frame: FrameType | None) -> None:
        """Keeps what torch's handler raises, unless images are waited for."""
        try:
            cls.torchs(number, frame)
        except RuntimeError as error:
            if cls.waiting:
                raise
            cls.error = error


def _end_readers() -> None:
    # multiprocessing would send those that an error has left over a SIGTERM, which they ignore, and then wait for ever
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch reports readers that are killed as failures
    for reader in _READERS:
        reader.kill()
