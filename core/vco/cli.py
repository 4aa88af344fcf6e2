"""The two commands and their exit codes: `vco-run` trains, samples and evaluates; `vco` holds the other verbs."""

import argparse
import atexit
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from vco.errors import LostProcessError, SingleProcessError, TrainingStoppedError, UserError, did_you_mean
from vco.plugins.discovery import describe, load_catalog

VERBS: Final = {  # verb -> (module with its `main`, what it does)
    "data": ("vco.commands.data", "look at a data set before a run depends on it"),
    "latents": ("vco.commands.latents", "encode a data set once, so that training need not read and encode its images"),
    "train-encoder": ("vco.commands.train_encoder", "train a small encoder on images of your own"),
    "check": ("vco.testing.command", "check that a plugin keeps the contracts of vco.api, law by law"),
    "new": ("vco.starter.command", "write a plugin package to begin with, which passes and runs at once"),
    "sample": ("vco.commands.sample", "write images of a run: a folder, an npz file, how they come out of noise"),
    "eval": ("vco.commands.evaluate", "score a run, a folder of images or an npz file; search for the best settings"),
    "compare": ("vco.commands.compare", "put runs beside each other, at equal amounts of training, with their noise"),
    "profile": ("vco.commands.profile", "say how fast a run trains, what it takes, and where the time of a step goes"),
    "import": ("vco.commands.importing", "make a run folder of published weights (V-Co, JiT, SiT, REPA, ReDi, ...)"),
    "export": ("vco.commands.exporting", "write a run's weights with settings and model card, to publish them"),
}


def main_vco(argv: Sequence[str] | None = None) -> int:
    """The command `vco`, whose verbs have their options in modules of their own; exits as `main_run` does."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="vco", description="Everything but training, which `vco-run` does.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    plugins = verbs.add_parser("plugins", help="list every component, preset and plugin, broken ones with the reason")
    plugins.add_argument("--no-plugin", action="append", default=[], metavar="NAME", help="a plugin to leave out")
    for verb, (_, text) in VERBS.items():
        verbs.add_parser(verb, help=text, add_help=False)
    if not argv:
        parser.print_help(sys.stderr)
        return UserError.status
    if not argv[0].startswith("-") and argv[0] not in verbs.choices:
        near = did_you_mean(argv[0], verbs.choices)
        return _say("vco", f"there is no verb {argv[0]!r}{near} (`vco --help` lists them)", UserError.status)
    args, rest = parser.parse_known_args(argv)
    if args.verb == "plugins":  # parsed again, as there is no other parser that would refuse the rest
        return _told(lambda: _list_plugins(parser.parse_args(argv).no_plugin), "vco")
    return _told(lambda: importlib.import_module(VERBS[args.verb][0]).main(rest), f"vco {args.verb}")


def _list_plugins(without: Sequence[str]) -> int:
    print(describe(load_catalog(without=without)), flush=True)
    return 0


def main_run(argv: Sequence[str] | None = None) -> int:
    """The command `vco-run`; exits with 0 done, 1 training failed, 2 the user's mistake, 128 + n on signal n."""
    return _told(lambda: _run(sys.argv[1:] if argv is None else argv), "vco-run")


def _told(work: Callable[[], int], command: str) -> int:
    """Does the work of a command; what the user can put right ends it with a sentence and an exit status."""
    _open_streams()
    try:
        return work()
    except LostProcessError as error:
        _leave(_say(command, str(error), error.status, alone=True) if error.says else error.status)
    except UserError as error:
        return _say(command, str(error), error.status, alone=isinstance(error, SingleProcessError))
    except BrokenPipeError:  # the reader of our output has left, as in `vco plugins | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, or a file that is not what it should be
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sentence = f"{error}; put that right, then the same command goes on"
        return _say(command, sentence, TrainingStoppedError.status, alone=True)
    except KeyboardInterrupt:
        return _say(command, "interrupted; the same command goes on from there", 130)


def _leave(status: int) -> NoReturn:
    """Ends this process where another one is lost, for which PyTorch would wait when it tidies up."""
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _open_streams() -> None:
    """Opens standard streams that were closed by who started us: files would take their numbers, and what they get."""
    while (last := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(last)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 (to the end of the process)


def _say(command: str, text: str, status: int, alone: bool = False) -> int:
    """Says why a run ends: the first process of a machine for all of them, or one alone with its number."""
    first = not os.environ.get("LOCAL_RANK", "0").strip("0").isdecimal()  # also where it is nonsense
    if alone and "RANK" in os.environ:
        text = f"process {os.environ['RANK']}: {text}"
        print(file=sys.stderr)  # below the progress bar of another process
    if alone or first:
        print("\n".join(f"{command}: {line}" for line in text.splitlines()), file=sys.stderr, flush=True)
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
