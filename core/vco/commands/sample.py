"""The command `vco sample RUN`: images of a run as a folder of PNG files or an npz file, and how they come about."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vco.commands.arguments import Parser, average, count, seed, split
from vco.errors import UserError

if TYPE_CHECKING:
    from vco.opened_run import OpenedRun
    from vco.sampling.outputs import Output
    from vco.sampling.request import Request

IN_GRID: Final = 100
"""Images of the grid that is written beside the others."""
ON_THE_WAY: Final = 4
"""Samples of a trajectory."""
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "--num": {"metavar": "N", "type": count, "default": 100, "help": "how many images [100]"},
    "--out": {"metavar": "FOLDER|FILE.npz", "help": "where they go; a grid of the first ones is put beside it"},
    "--labels": {
        "metavar": "LAW",
        "default": "balanced",
        "help": "their classes: balanced, data (in the proportions of the training set), or numbers as in 0,3,3, which "
        "are repeated [balanced]",
    },
    "--scale": {"metavar": "S", "help": "guidance scale; 1 is unguided [the run's]"},
    "--seed": {"metavar": "K", "type": seed, "default": 0, "help": "seed of the noise [0]"},
    "--step": {"metavar": "N", "type": int, "help": "which checkpoint [the newest]"},
    "--ema": {
        "metavar": "0|1|none",
        "type": average,
        "default": 0,
        "help": "which average of the weights; none takes the last weights themselves [0]",
    },
    "--trajectory": {
        "metavar": "FILE",
        "type": Path,
        "help": f"also draw how the first {ON_THE_WAY} come out of noise, image and features: a .png with a column for "
        "each moment, or a .gif or .webp that moves",
    },
    "--batch-size": {"metavar": "N", "type": count, "help": "images per forward pass and process [the run's]"},
    "--device": {"metavar": "NAME", "help": "as in cpu, cuda or cuda:1 [a GPU if there is one]"},
    "--plugin": {"metavar": "MODULE", "action": "append", "default": [], "help": "plugin that is not installed"},
    "--no-plugin": {"metavar": "NAME", "action": "append", "default": [], "help": "installed plugin to leave out"},
}


def main(argv: Sequence[str]) -> int:
    """Samples; returns the exit status.

    Raises:
        UserError: if something cannot be as it is asked for; nothing is written then.
    """
    parser = Parser(
        prog="vco sample",
        description="Sample from a run. Image i and its label are functions of the seed and of i: they are the same "
        "with any batch size and number of processes. A command that was stopped goes on where it was.",
        epilog="Options of vco-run that act in sampling alone are taken too, as in --sample.steps 20, --solver euler, "
        "--guidance.low 0.2, --guidance.feature-scale 1.5 or --mixed-precision fp32. For several processes write "
        "torchrun --nproc-per-node 8 -m -- vco sample RUN ...",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run, or hf://OWNER/NAME of a published one")
    for option, details in OPTIONS.items():
        parser.add_argument(option, **details)
    ours, others = split(argv, OPTIONS)
    args = parser.parse_args(ours)
    if not (args.out or args.trajectory):
        raise UserError("say where the images go: --out FOLDER, --out FILE.npz, or --trajectory FILE.png")
    if args.batch_size is not None:
        others += ["--sample.batch-size", str(args.batch_size)]
    others += [part for module in args.plugin for part in ("--plugin", module)]
    return _sample(args, others)


def _sample(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Opens the run, and makes and draws what is asked for."""
    from vco.distributed import connect_processes, disconnect_processes, errors_shared, process_count, usable_device

    output = _output(args.out) if args.out else None
    if args.trajectory:
        _check_picture(args.trajectory)
    if args.device and process_count() > 1:
        raise UserError("several processes have a device each; leave --device out")
    opened = _open(args, options)
    accelerator = connect_processes(opened.config)
    held: Any = None
    try:
        first = accelerator.is_main_process
        with errors_shared():
            opened.device = usable_device(args.device) if args.device else accelerator.device
            request = _request(args, opened)
            held = output.begin(request) if output and first else None
        if first:
            print(_describe(opened, request, accelerator.num_processes), flush=True)
            if opened.young_average:
                print(f"note: {opened.young_average}", flush=True)
        if output:
            _write(opened, request, output, accelerator)
        if first and args.trajectory:
            _draw(opened, request, args.trajectory)
        return 0
    finally:
        if held is not None:
            held.close()
        disconnect_processes(accelerator)


def _open(args: argparse.Namespace, options: Sequence[str]) -> "OpenedRun":
    """The run with the options that were set anew."""
    from vco.opened_run import open_run
    from vco.plugins.discovery import load_catalog
    from vco.sampling.settings import require_scale

    catalog = load_catalog(without=args.no_plugin)
    opened = open_run(args.run, step=args.step, ema=args.ema, options=options, catalog=catalog)
    if args.scale is not None:
        require_scale(opened.config)
        scaled = [*options, "--guidance.scale", args.scale]
        opened = open_run(args.run, step=args.step, ema=args.ema, options=scaled, catalog=catalog)
    return opened


def _request(args: argparse.Namespace, opened: "OpenedRun") -> "Request":
    """Which images are asked for, once the model is there to make them.

    Raises:
        UserError: if the model cannot be loaded, or the labels cannot be had.
    """
    from vco.sampling.request import Request

    opened.guided()
    facts = opened.run.facts
    request = Request(num=args.num, seed=args.seed, labels=args.labels, facts=facts, model=opened.describe())
    request.labels_of([0])
    return request


def _output(name: str) -> "Output":
    """The place that --out names.

    Raises:
        UserError: if it cannot be written to, or looks like a file of another kind.
    """
    from vco.sampling.npz_file import NpzFile
    from vco.sampling.png_folder import PngFolder

    path = Path(name)
    if path.suffix[1:].isalpha() and path.suffix != ".npz" and not (path.is_dir() or name.endswith("/")):
        raise UserError(f"--out {name}: images go to a folder or to FILE.npz; write {name}/ if that is to be a folder")
    output = NpzFile(path) if path.suffix == ".npz" else PngFolder(path)
    output.check()
    return output


def _check_picture(path: Path) -> None:
    """Raises `UserError` if a trajectory cannot be drawn there."""
    from vco.sampling.trajectory import check_suffix
    from vco.storage.files import require_place

    check_suffix(path)
    require_place(path, "--trajectory")


def _write(opened: "OpenedRun", request: "Request", output: "Output", accelerator: Any) -> None:
    """Makes the images that are missing, and the grid."""
    from vco.distributed import errors_shared
    from vco.sampling.generate import generate
    from vco.sampling.sample import encode_png
    from vco.storage.files import write_atomic

    began = time.perf_counter()
    with errors_shared():  # where those that are done first wait for the others, however long that takes
        made = generate(opened.run, opened.guided(), request, output, accelerator, opened.device)
    if not accelerator.is_main_process:
        return
    seconds = time.perf_counter() - began
    output.finish(request)
    shown = output.first(min(request.num, IN_GRID))
    write_atomic(output.grid, encode_png(shown, request.columns))
    now = f"{made} made now, {made / seconds:.3g} a second" if made else "all there before"
    print(f"{output.path}: {request.num} images ({now}); {output.grid}: the first {len(shown)}", flush=True)


def _draw(opened: "OpenedRun", request: "Request", path: Path) -> None:
    """Draws the trajectory of the first images."""
    from vco.distributed import autocast_of
    from vco.sampling.trajectory import SUFFIXES, trajectory

    first = range(min(request.num, ON_THE_WAY))
    labels, model, device = request.labels_of(first), opened.guided(), opened.device
    with autocast_of(opened.config, device):
        way = trajectory(opened.run, model, labels, first, device, request.seed, SUFFIXES[path.suffix])
    way.save(path)
    print(f"{path}: how the first {len(first)} come out of noise", flush=True)


def _describe(opened: "OpenedRun", request: "Request", processes: int) -> str:
    """What is sampled, in one line."""
    config, averaged = opened.config, opened.ema_decay is not None
    guidance = config.part("guidance")
    scale = getattr(guidance.config, "scale", None)
    parts = [
        f"{request.num} images of {opened.folder.path} at step {opened.step}",
        f"average {opened.ema} (decay {opened.ema_decay:g})" if averaged else "last weights",
        f"guidance {guidance.name}" + ("" if scale is None else f" {scale:g}"),
        f"{config.part('solver').name} in {config.sample.steps} steps",
        f"labels {request.labels}",
        f"seed {request.seed}",
        f"on {opened.device.type}",
        f"{processes} process" + ("es" if processes > 1 else ""),
    ]
    return ", ".join(parts)
