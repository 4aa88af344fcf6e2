"""The two commands and their exit codes: `vco-run` does the main job, `vco` holds the other verbs."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from vco.errors import SingleProcessError, TrainingStoppedError, UserError
from vco.plugins.discovery import describe, load_catalog


def main_vco(argv: Sequence[str] | None = None) -> int:
    """The command `vco`, whose verbs have their options in modules of their own; exits as `main_run` does."""
    parser = argparse.ArgumentParser(prog="vco", description="Look at what vco offers; `vco-run` is the main job.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    plugins = verbs.add_parser("plugins", help="list every component, preset and plugin, broken ones with the reason")
    plugins.add_argument("--no-plugin", action="append", default=[], metavar="NAME", help="a plugin to leave out")
    verbs.add_parser("check", help="check that a plugin keeps the contracts of vco.api, law by law", add_help=False)
    verbs.add_parser("new", help="write a plugin package to begin with, which passes and runs at once", add_help=False)
    args, rest = parser.parse_known_args(argv)
    try:
        if args.verb == "plugins":  # parsed again, as there is no other parser that would refuse the rest
            print(describe(load_catalog(without=parser.parse_args(argv).no_plugin)), flush=True)
            return 0
        if args.verb == "check":
            from vco.testing.command import main
        else:
            from vco.starter.command import main
        return main(rest)
    except UserError as error:
        print("\n".join(f"vco: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return error.status
    except BrokenPipeError:  # as in `vco plugins | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def main_run(argv: Sequence[str] | None = None) -> int:
    """The command `vco-run`; exits with 0 done, 1 training failed, 2 the user's mistake, 128 + n on signal n."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        return _say(str(error), error.status, alone=isinstance(error, SingleProcessError))
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, or a file of the run folder that is not what it should be
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _say(f"{error}; put that right, then the same command goes on", TrainingStoppedError.status, alone=True)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from there", 130)


def _say(text: str, status: int, alone: bool = False) -> int:
    """Says why a run ends: the first process of a machine for all of them, or one alone with its number."""
    first = not os.environ.get("LOCAL_RANK", "0").strip("0").isdecimal()  # also where it is nonsense
    if alone and "RANK" in os.environ:
        text = f"process {os.environ['RANK']}: {text}"
        print(file=sys.stderr)  # below the progress bar of another process
    if alone or first:
        print("\n".join(f"vco-run: {line}" for line in text.splitlines()), file=sys.stderr, flush=True)
    return status


def _run(argv: Sequence[str]) -> int:
    from vco.config.command_line import parse
    from vco.config.resolve import resolve

    line = parse(argv)
    invocation = resolve(line, load_catalog(without=line.flags["no_plugin"]))
    from vco.job import run_job

    return run_job(invocation)


if __name__ == "__main__":
    sys.exit(main_run())
