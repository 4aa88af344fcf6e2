"""`vco profile`: does a few steps of a run, and says how fast they are and what keeps them from being faster."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vco.commands.arguments import Parser, count, split
from vco.errors import UserError

if TYPE_CHECKING:
    from vco.config.resolve import Invocation
    from vco.training.profiling import Profile

ABOUT: Final = (
    "Do a few training steps of a run, and say how many images a second it trains with, what it takes, and where the "
    "time goes. Nothing is written but what --trace and --json name."
)
EPILOG: Final = (
    "All options of vco-run are taken too, as in `vco profile --preset imagenet256-b16 --data.root ROOT`, and several "
    "processes are started as for vco-run: torchrun --nproc-per-node 8 -m -- vco profile ..."
)
OWN: Final = ("--steps", "--trace", "--json")
TRACES: Final = (".json", ".gz")


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns the exit status.

    Raises:
        UserError: if the run cannot be trained as it is asked for, or a file cannot be written.
    """
    parser = Parser(prog="vco profile", description=ABOUT, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", nargs="?", help="folder of a run, for its settings; it is left alone")
    parser.add_argument("--steps", type=count, default=10, metavar="N", help="steps that are measured [10]")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="a trace for ui.perfetto.dev, as trace.json.gz")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures as JSON")
    ours, others = split(argv, OWN)
    args = parser.parse_args(ours)
    from vco.storage.files import require_place, write_atomic

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler tells of every machine without a GPU
    for option, path in (("--trace", args.trace), ("--json", args.json)):
        if path is not None:
            require_place(path, option)
    if args.trace is not None and args.trace.suffix not in TRACES:
        raise UserError(f"--trace {args.trace}: a trace ends with .json or .json.gz; name it so")
    found = _measured([*([args.run] if args.run else []), *others], args.steps, args.trace)
    if found is None:
        return 0
    from vco.training.explaining import described

    print(described(found), flush=True)
    if args.json:
        write_atomic(args.json, json.dumps(found.plain(), indent=1) + "\n")
    if args.trace:
        print(f"{args.trace}: open it in ui.perfetto.dev", flush=True)
    return 0


def _measured(options: Sequence[str], steps: int, trace: Path | None) -> "Profile | None":
    """What was measured; None in all processes but the first."""
    from vco.config.command_line import parse
    from vco.config.resolve import resolve
    from vco.distributed import (
        connect_processes,
        disconnect_processes,
        errors_shared,
        losses_of_processes_named,
        process_count,
    )
    from vco.plugins.discovery import load_catalog
    from vco.run import assemble
    from vco.training.profiling import measure
    from vco.training.starting import source_problems

    line = parse(options)
    asked = _shortened(resolve(line, load_catalog(without=line.flags["no_plugin"])), steps)
    chosen = (asked.config, asked.catalog, asked.origin)
    plan = assemble(*chosen, device="meta", processes=process_count(), data=asked.data)
    if missing := [*plan.missing(), *source_problems(plan)]:
        raise UserError("\n".join(missing))
    accelerator = connect_processes(asked.config)
    main = accelerator.is_main_process
    try:
        with losses_of_processes_named():
            with errors_shared():
                run = assemble(*chosen, data=plan.data)
                run.load()
            found = measure(run, accelerator, steps, trace if main else None)
    finally:
        disconnect_processes(accelerator)
    return found if main else None


def _shortened(asked: "Invocation", steps: int) -> "Invocation":
    """The same run without scores, with no more steps than are done here, and an adapter fitted to a few images."""
    import attrs

    from vco.training.profiling import FITTED, steps_in_all

    train: Any = attrs.evolve(
        asked.config.train, steps=steps_in_all(steps), fit_samples=min(asked.config.train.fit_samples, FITTED)
    )
    parts = tuple(part for part in asked.config.parts if part.section != "metric")
    return attrs.evolve(asked, config=attrs.evolve(asked.config, train=train, parts=parts))
