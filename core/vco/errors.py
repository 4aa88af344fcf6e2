"""The exceptions that reach the user as a sentence instead of a traceback, and what their sentences are made of."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(Exception):
    """Something the user can put right: says what was wrong, where it came from and what to do.

    The command line prints the message (several lines for several mistakes) and exits with `status`. A feature source
    writes its options as `--.weights`: only the core knows whether it was chosen with --features or for a --metric.
    """

    status: ClassVar[int] = 2

    def of(self, component: str, section: str) -> str:
        """The message as that of a component, with the full names of options of its section."""
        return f"{component}: {self}".replace("--.", f"--{section}.")


class TrainingStoppedError(UserError):
    """Training cannot go on, for example because a loss is not finite; what was saved before is intact."""

    status: ClassVar[int] = 1


class SingleProcessError(UserError):
    """An error that one process has met, perhaps no other: that process prints it itself, with its number.

    All other errors are met by every process alike, and the first process of a machine prints them for all.
    """


class LostProcessError(TrainingStoppedError):
    """Another process of the run is gone, stopped or hung; one of those that are left says so."""

    def __init__(self, sentence: str, *, says: bool) -> None:
        """Remembers a sentence, and whether it is this process that says it."""
        super().__init__(sentence)
        self.says = says


class ReaderLostError(SingleProcessError, TrainingStoppedError):
    """A process that reads images for this one was killed, or gives no answer."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A suffix for an error message: "; did you mean 'x'?", or nothing where no name is near."""
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(error: BaseException) -> str:
    """An exception as part of a sentence; of a foreign one its type and message."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".removesuffix(": ")
