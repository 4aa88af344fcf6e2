"""The exceptions that reach the user as a sentence instead of a traceback."""

from typing import ClassVar


class UserError(Exception):
    """Something the user can put right: says what was wrong, where it came from and what to do.

    The command line prints the message (several lines for several mistakes) and exits with `status`.
    """

    status: ClassVar[int] = 2


class TrainingStoppedError(UserError):
    """Training cannot go on, for example because a loss is not finite; what was saved before is intact."""

    status: ClassVar[int] = 1
