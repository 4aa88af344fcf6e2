"""The command `vco data`: looks at a data set before a run depends on it, and packs it into shards."""

from collections.abc import Sequence

from vco.commands import data_check, data_pack
from vco.commands.arguments import Parser, split
from vco.commands.data_set import add_options


def main(argv: Sequence[str]) -> int:
    """The verb with its options; exits with 1 if an image cannot be read.

    Raises:
        UserError: if the data set as a whole cannot be used.
    """
    parser = Parser(prog="vco data", description="Look at a data set before a run depends on it, or pack it.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    own = {"--data", "--threads"}
    for verb, module in (("check", data_check), ("pack", data_pack)):
        added = verbs.add_parser(
            verb,
            help=module.HELP,
            description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
            epilog="Options of the data set are given as to vco-run, as in --data.size 64.",
            allow_abbrev=False,
        )
        add_options(added)
        own |= module.add_options(added)
        added.set_defaults(run=module.run)
    ours, others = split(argv, own)
    args = parser.parse_args(ours)
    return args.run(args, others)
