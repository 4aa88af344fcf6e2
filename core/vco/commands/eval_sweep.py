"""`vco eval sweep RUN`: tries settings on seeds of their own, and reports the best on fresh ones."""

import argparse
from collections.abc import Sequence

import attrs

from vco.commands.eval_run import evaluation_of, measured
from vco.commands.eval_setup import Bench, bench
from vco.errors import UserError
from vco.evaluation import records
from vco.evaluation.evaluate import Evaluation
from vco.evaluation.summary import summary
from vco.evaluation.sweep import Setting, Tried, best, cautions, describe, settings
from vco.opened_run import OpenedRun


def sweep(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Does the sweep; what is in evals.jsonl already is not measured again.

    Raises:
        UserError: if nothing is to be tried, or a seed is both for choosing and for reporting.
    """
    asked = {"scale": args.scales, "low": args.lows, "high": args.highs, "steps": args.steps, "ema": args.emas}
    wanted = settings(asked)
    if not any(asked.values()):
        raise UserError("there is nothing to try: name values with --scales, --lows, --highs, --steps or --emas")
    with bench(args, options) as ready:
        for setting in wanted:  # a setting that cannot be shows before anything is sampled
            _require(_opened(ready, setting), setting)
        reported = args.seeds or [ready.run.config.seed]
        if both := sorted(set(reported) & set(args.sweep_seeds)):
            raise UserError(
                f"seed {both[0]} is both for choosing and for reporting, which would report the luck of the choice; "
                "set --sweep-seeds or --seeds apart"
            )
        evaluation, path = evaluation_of(args, ready), args.evals or ready.opened.folder.evals
        number = args.sweep_num or ready.run.config.eval.samples
        tried: list[Tried] = []
        for place, setting in enumerate(wanted):
            opened, here = _with(ready, evaluation, setting, number, baseline=False)
            ready.say(f"{place + 1} of {len(wanted)}: {setting}")
            more = {"sweep": dict(setting.values)}
            lines = [
                measured(ready, here, opened, seed, path, refresh=args.refresh, by=records.SWEEP, more=more)
                for seed in args.sweep_seeds
            ]
            values, first = [line["value"] for line in lines], lines[0]
            tried.append(
                Tried(setting=setting, title=first["title"], values=values, higher_is_better=first["higher_is_better"])
            )
        winner = best(tried)
        ready.say(f"\n{describe(tried)}\nover the seeds {_listed(args.sweep_seeds)}, none of which is reported")
        for caution in cautions(tried):
            ready.say(f"note: {caution}")
        ready.say(f"\nbest: {winner.setting}; on the seeds {_listed(reported)}:\n")
        opened, here = _with(
            ready, evaluation, winner.setting, ready.run.config.eval.samples, baseline=not args.no_baseline
        )
        lines = [measured(ready, here, opened, seed, path, refresh=args.refresh) for seed in reported]
        ready.say(summary(lines))
        ready.say(f"all of it is in {path}")
    return 0


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _with(
    ready: Bench, evaluation: Evaluation, setting: Setting, number: int, *, baseline: bool
) -> tuple[OpenedRun, Evaluation]:
    """The model with a setting, and what measures so many images of it.

    Raises:
        UserError: if the run cannot be sampled so.
    """
    opened, before = _opened(ready, setting), ready.run.config
    measuring = [part for part in before.parts if part.section in ("metric", "data")]
    sampling = [part for part in opened.config.parts if part.section not in ("metric", "data")]
    config = attrs.evolve(
        opened.config, train=before.train, eval=attrs.evolve(before.eval, samples=number), parts=(*sampling, *measuring)
    )
    run = attrs.evolve(opened.run, config=config, metrics=ready.run.metrics, at_hand=ready.run.at_hand)
    return opened, evaluation.of(run, baseline=baseline)


def _opened(ready: Bench, setting: Setting) -> OpenedRun:
    options = [*ready.options, *setting.options]
    return ready.opened.again(ema=setting.values.get("ema", ready.opened.ema), options=options)


def _require(opened: OpenedRun, setting: Setting) -> None:
    """Raises `UserError` if the run cannot be sampled with a setting."""
    opened.config.part("guidance")
    number = setting.values.get("ema")
    if number is not None and opened.ema_decay is None:
        raise UserError(f"--emas {number}: the run in {opened.folder.path} keeps no average of its weights")
