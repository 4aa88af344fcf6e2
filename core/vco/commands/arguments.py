"""Arguments of commands that take options of their own and, beside them, options of `vco-run`."""

import argparse
from collections.abc import Collection, Sequence
from typing import Final, NoReturn

from vco.config.command_line import FLAGS, GROUPS, SCALARS
from vco.errors import UserError, did_you_mean
from vco.kinds import SECTIONS


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`."""
        raise UserError(f"{message} (`{self.prog} --help` lists the options)")


def split(argv: Sequence[str], own: Collection[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command, and those of `vco-run`, each of which takes a value.

    Args:
        argv: all of them.
        own: the command's own options.

    Raises:
        UserError: if an option is one of neither.
    """
    of_run = {f"--{name.replace('_', '-')}" for name in (*SECTIONS, *GROUPS, *SCALARS, *FLAGS)}
    ours, others, rest = list[str](), list[str](), list(argv)
    while rest:
        argument = rest.pop(0)
        option = argument.partition("=")[0]
        if not option.startswith("--") or option in (*own, "--help"):
            ours.append(argument)
            continue
        if option.partition(".")[0] not in of_run:
            known = {name[2:]: name for name in (*own, *of_run)}  # the hyphens, which all have, make none alike
            near = did_you_mean(option[2:], known).replace("'", "'--", 1)
            raise UserError(f"{option}: unknown option{near}")
        others.append(argument)
        if argument == option and rest and not rest[0].startswith("--"):
            others.append(rest.pop(0))
    return ours, others


LARGEST: Final = 10_000_000
"""Images, at most: their numbers and labels are held in memory, and names in one folder."""


def count(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    if int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {LARGEST:,}, the most at a time")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def several(text: str) -> int:
    """A number from 2 on."""
    if count(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 2 on")
    return int(text)


def average(text: str) -> int | None:
    """The number of a running average of the weights; None for the last weights themselves."""
    if text != "none" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither the number of an average, as in 0 or 1, nor none")
    return None if text == "none" else int(text)


def averages(text: str) -> list[int | None]:
    """Several of them, as in 0,1,none."""
    return [average(part) for part in _parts(text)]


def seeds(text: str) -> list[int]:
    """Different seeds, as in 0,1,2."""
    found = _parts(text)
    if not all(part.isdecimal() for part in found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} are not different whole numbers from 0 on, as in 0,1,2")
    return [int(part) for part in found]


def numbers(text: str) -> list[str]:
    """Different numbers, as in 1,1.5,2; as they are written."""
    found = _parts(text)
    try:
        values = [float(part) for part in found]
    except ValueError:
        values = []
    if not values or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"{text!r} are not different numbers, as in 1,1.5,2")
    return found


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise argparse.ArgumentTypeError("at least one value is needed")
    return parts
