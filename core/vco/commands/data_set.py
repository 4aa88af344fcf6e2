"""The data set that `vco data` works on, built as a run would build it."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vco.config.command_line import parse
from vco.config.plain import locations
from vco.config.resolve import resolve
from vco.config.settings import Part
from vco.errors import UserError
from vco.plugins.discovery import load_catalog

if TYPE_CHECKING:
    from vco.api import Data


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which data set it is."""
    parser.add_argument("root", metavar="ROOT", help="folder, or what else the data set reads from")
    parser.add_argument("--data", default="image-folder", metavar="NAME", help="the data set [image-folder]")
    parser.add_argument("--threads", type=int, default=8, metavar="N", help="images that are read at a time [8]")


def open_data(args: argparse.Namespace, options: Sequence[str]) -> tuple["Data", Part]:
    """The data set, whose files are there, and its part of the configuration.

    Raises:
        UserError: if an option is wrong or its files are missing.
    """
    from vco.api import DataSetting

    if args.threads < 1:
        raise UserError(f"--threads is {args.threads}; at least 1 is needed")
    chosen, catalog = ["--data", args.data, *options], load_catalog()
    places = sorted(locations(type(resolve(parse(chosen), catalog).config.part("data").config)))
    place = places[0] if places else "root"
    invocation = resolve(parse([*chosen, f"--data.{place}", args.root]), catalog)
    part = invocation.config.part("data")
    try:
        data: Data = invocation.data or part.component(part.config, DataSetting())
        data.check()
    except UserError as error:
        raise UserError(error.of(part.title, "data")) from error
    return data, part
