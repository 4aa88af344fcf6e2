"""The options of `vco check MODULE`."""

import argparse
import os
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The verb with its options; returns and raises as `check` does."""
    parser = argparse.ArgumentParser(
        prog="vco check", description="Check that a plugin keeps its contracts, law by law."
    )
    parser.add_argument("plugin", metavar="MODULE", help="module with the hooks, or name of an entry point")
    parser.add_argument("--only", default="", metavar="ID", help="only ids that begin so, as in loss/my-loss")
    parser.add_argument("--slow", action="store_true", help="also laws that take seconds, such as torch.compile")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="ID.OPTION=VALUE",
        help="test with this option, as in data/mine.root=DIR, or with a shape that a component needs, as in "
        "backbone/mine.streams.features=16x8 (tokens x width) or codec/mine.streams.image=3x64x64",
    )
    parser.add_argument("--xfail", action="append", default=[], metavar="ID", help="a check that is broken on purpose")
    args = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # weights that are not here are a reason to skip, not to download them
    from vco.testing.table import check  # imports torch, which --help must not wait for

    return check(args.plugin, args.only, args.slow, args.set, args.xfail)
