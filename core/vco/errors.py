"""The exceptions that reach the user as a sentence instead of a traceback."""

from typing import ClassVar


class UserError(Exception):
    """Something the user can put right: says what was wrong, where it came from and what to do.

    The command line prints the message (several lines for several mistakes) and exits with `status`. A feature source
    writes its options as `--.weights`: only the core knows whether it was chosen with --features or --evaluator.
    """

    status: ClassVar[int] = 2

    def of(self, component: str, section: str) -> str:
        """The message as that of a component, with the full names of options of its section."""
        return f"{component}: {self}".replace("--.", f"--{section}.")


class TrainingStoppedError(UserError):
    """Training cannot go on, for example because a loss is not finite; what was saved before is intact."""

    status: ClassVar[int] = 1


class LoneError(UserError):
    """One process cannot go on, perhaps no other: so it says itself, with its number. Other errors are said once."""
