"""`vco eval RUN`: the scores of a run, for each seed."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from vco.commands.eval_setup import Bench, bench
from vco.evaluation import records
from vco.evaluation.evaluate import Evaluation
from vco.evaluation.results import describe_results
from vco.evaluation.summary import summary
from vco.opened_run import OpenedRun
from vco.reporting.report import write_report
from vco.run import Run


def score_run(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Scores a run, prints what was found and adds it to evals.jsonl.

    Raises:
        UserError: if something cannot be as it is asked for.
    """
    with bench(args, options) as ready:
        evaluation = evaluation_of(args, ready)
        path = args.evals or ready.opened.folder.evals
        lines = [
            measured(ready, evaluation, ready.opened, seed, path, refresh=args.refresh)
            for seed in args.seeds or [ready.run.config.seed]
        ]
        ready.say(summary(lines))
        ready.say(f"all of it is in {path}")
        folder = ready.opened.folder
        if ready.accelerator.is_main_process and path == folder.evals and folder.report.exists():
            write_report(folder)  # with the new scores
    return 0


def evaluation_of(args: argparse.Namespace, ready: Bench) -> Evaluation:
    """What measures the run; notes are printed with the scores."""
    baseline = not args.no_baseline
    more: dict[str, Any] = {"say": lambda note: None, "option": "--num"}
    return Evaluation(ready.run, ready.accelerator, ready.references, ready.cache, baseline, **more)


def measured(
    ready: Bench,
    evaluation: Evaluation,
    opened: OpenedRun,
    seed: int,
    path: Path,
    *,
    refresh: bool,
    by: str = records.EVAL,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The line of evals.jsonl with the scores of one seed: an old one if there is one, or else a new one.

    Args:
        ready: the processes.
        evaluation: measures, with the settings of what is measured.
        opened: the model.
        seed: seed of its samples.
        path: the file with lines.
        refresh: whether an old line does not count.
        by: who measures.
        more: what else is to be noted.
    """
    model, run = opened.guided(), evaluation.run
    key = evaluation.how_made(model, seed)["key"]
    main = ready.accelerator.is_main_process
    known = records.find(path, key) if main and not refresh else None
    known = gather_object([known])[0]
    if known is not None:
        ready.say(f"seed {seed} was measured before, on {known['time']} (--refresh measures it again)")
        return known
    results = evaluation.score(model, seed=seed, notes=notes_of(opened, run))
    described = {**describe_results(results, run, opened.step, opened.ema_decay), **(more or {})}
    return records.append(path, described, by) if main else described


def notes_of(opened: OpenedRun, run: Run) -> list[str]:
    """What is odd about the weights."""
    young = [opened.young_average] if opened.young_average else []
    if opened.ema is None or opened.ema_decay is None or opened.average_differs:
        return young
    return [
        *young,
        f"average {opened.ema} of the weights is the last weights, bit by bit: either it was never moved, or the "
        "checkpoint was put together by hand",
    ]
