"""The command `vco eval`: scores of a run, of a folder of images, or of an npz file, with all that they depend on."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vco.commands.arguments import Parser, average, averages, count, numbers, seeds, several, split
from vco.errors import UserError

COMMON: Final[dict[str, dict[str, Any]]] = {
    "--against": {
        "metavar": "WHAT",
        "action": "append",
        "default": [],
        "help": "what images are held against: test or train (the run's data), another run (its held-out images), a "
        "folder, an npz file, or a file of moments (JiT's, ADM's, or of `vco eval reference`); may be repeated [test]",
    },
    "--num": {"metavar": "N", "type": several, "help": "how many images [as many as the run scores; all of a folder]"},
    "--labels": {
        "metavar": "balanced|data",
        "choices": ["balanced", "data"],
        "help": "law of their classes; of a folder, the law by which they were made [the run's; unknown]",
    },
    "--no-baseline": {
        "action": "store_true",
        "help": "leave out the score of real images (what a perfect generator would get)",
    },
    "--evals": {"metavar": "FILE", "type": Path, "help": "where scores are added, a line each [RUN/evals.jsonl]"},
    "--no-cache": {"action": "store_true", "help": "compute the moments of real images anew"},
    "--no-plugin": {"metavar": "NAME", "action": "append", "default": [], "help": "installed plugin to leave out"},
}
"""Options of all that `vco eval` does."""
OF_RUN: Final[dict[str, dict[str, Any]]] = {
    "--step": {"metavar": "N", "type": int, "help": "which checkpoint [the newest]"},
    "--refresh": {"action": "store_true", "help": "measure again what evals.jsonl has already"},
}
OF_MODEL: Final[dict[str, dict[str, Any]]] = {
    "--ema": {
        "metavar": "0|1|none",
        "type": average,
        "default": 0,
        "help": "which average of the weights; none takes the last weights themselves [0]",
    },
    "--scale": {"metavar": "S", "help": "guidance scale; 1 is unguided [the run's]"},
    "--seeds": {
        "metavar": "K,L,...",
        "type": seeds,
        "help": "seeds of the samples, each of which has a score; of several, mean and spread too [the run's]",
    },
    "--seed": {"metavar": "K", "dest": "seeds", "type": seeds, "help": argparse.SUPPRESS},  # as in `vco sample`
    "--neighbours": {
        "metavar": "N",
        "type": count,
        "help": "instead of a score: hold N samples against their nearest training images, to see what was memorised",
    },
    "--out": {"metavar": "FILE.png", "type": Path, "help": "picture of the neighbours"},
}
SWEPT: Final[dict[str, dict[str, Any]]] = {
    "--scales": {"metavar": "S,T,...", "type": numbers, "help": "guidance scales to try"},
    "--lows": {"metavar": "T,...", "type": numbers, "help": "times from which on guidance acts"},
    "--highs": {"metavar": "T,...", "type": numbers, "help": "times up to which it acts"},
    "--steps": {"metavar": "N,...", "type": numbers, "help": "numbers of solver steps"},
    "--emas": {"metavar": "0,1,none", "type": averages, "help": "averages of the weights"},
    "--sweep-seeds": {
        "metavar": "K,...",
        "type": seeds,
        "default": [1000],
        "help": "seeds on which settings are compared; none of them is reported [1000]",
    },
    "--sweep-num": {"metavar": "N", "type": several, "help": "images for each setting [as --num]"},
    "--seeds": {"metavar": "K,L,...", "type": seeds, "help": "seeds on which the best is reported [the run's]"},
}
MADE: Final[dict[str, dict[str, Any]]] = {
    "--split": {"choices": ["train", "test"], "default": "train", "help": "which images of a run's data [train]"},
    "--num": {"metavar": "N", "type": several, "help": "how many images [all]"},
    "--labels": {
        "metavar": "balanced|data",
        "choices": ["balanced", "data"],
        "help": "law of the classes: balanced draws as many of each, data takes the images as they are [data]",
    },
    "--out": {"metavar": "FILE", "type": Path, "required": True, "help": "a .safetensors or an .npz file"},
    "--no-plugin": COMMON["--no-plugin"],
}
MORE: Final = (
    "Options of vco-run for metrics are taken too, as in --metric fd=digits-cnn,kid=digits-cnn or "
    "--metric.fd.inception.weights FILE, and of a run those that act in sampling alone, as in --sample.steps 20, "
    "--solver euler, --guidance.low 0.2 or --mixed-precision fp32, or say where its data lie, as --data.root. For "
    "several processes write torchrun --nproc-per-node 8 -m -- vco eval RUN ..."
)


def main(argv: Sequence[str]) -> int:
    """Measures; returns the exit status.

    Raises:
        UserError: if something cannot be as it is asked for.
    """
    if argv[:1] == ["sweep"]:
        args, options = _read(
            argv[1:],
            "vco eval sweep",
            "Try settings for sampling on seeds of their own, keep all scores, and report the best on fresh seeds. A "
            "sweep that was stopped goes on where it was.",
            {**COMMON, **OF_RUN, **SWEPT},
        )
        from vco.commands.eval_sweep import sweep

        return sweep(args, options)
    if argv[:1] == ["reference"]:
        args, options = _read(
            argv[1:],
            "vco eval reference",
            "Write the moments of real images as an encoder sees them, to hold images against them elsewhere.",
            MADE,
        )
        from vco.commands.eval_reference import write_reference

        return write_reference(args, options)
    return _score(argv)


def _score(argv: Sequence[str]) -> int:
    args, options = _read(
        argv,
        "vco eval",
        "Score a run, a folder of PNG or JPEG images, or an npz file. Every score is kept with all that it depends on. "
        "`vco eval sweep RUN` searches for the best settings, `vco eval reference RUN` writes moments of real images.",
        {**COMMON, **OF_RUN, **OF_MODEL},
    )
    path: Path = args.subject
    if (path / "config.yaml").is_file():
        if args.neighbours:
            from vco.commands.eval_neighbours import show_neighbours

            return show_neighbours(args, options)
        from vco.commands.eval_run import score_run

        return score_run(args, options)
    if (path / "checkpoints").is_dir():
        raise UserError(f"{path} holds checkpoints, but it is not the folder of a run: it has no config.yaml")
    given = [f"--{name}" for name in ("step", "scale", "seeds", "neighbours", "out") if getattr(args, name) is not None]
    if given:
        raise UserError(f"{' and '.join(given)} can be said of a run, and {path} is none: it has no config.yaml")
    from vco.commands.eval_images import score_images

    return score_images(args, options)


def _read(
    argv: Sequence[str], command: str, text: str, own: dict[str, dict[str, Any]]
) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and those of `vco-run`."""
    parser = Parser(prog=command, description=text, epilog=MORE, allow_abbrev=False)
    what = "folder of a run" if command == "vco eval sweep" else "folder of a run or of images, or an npz file"
    parser.add_argument("subject", metavar="RUN" if "sweep" in command else "RUN|FOLDER|NPZ", type=Path, help=what)
    for option, details in own.items():
        parser.add_argument(option, **details)
    ours, others = split(argv, own)
    args = parser.parse_args(ours)
    return args, others
