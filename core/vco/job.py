"""The main job: train, sample, evaluate and report, in this order, each part only where it is still to be done."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

import attrs
from accelerate import Accelerator

from vco import content
from vco.api import Data
from vco.config.resolve import Invocation
from vco.distributed import (
    connect_processes,
    disconnect_processes,
    errors_shared,
    losses_of_processes_named,
    process_count,
)
from vco.errors import UserError
from vco.evaluation.results import evaluated_step, write_results
from vco.facts import RunFacts
from vco.folder import RunFolder
from vco.opened_run import load_weak
from vco.reporting.live import LiveReport
from vco.reporting.report import write_report
from vco.run import Run, assemble
from vco.sampling.averages import young_average
from vco.sessions import changed_code, session
from vco.storage.files import gone_if_empty
from vco.training.loop import Training
from vco.training.pictures import write_trajectory
from vco.training.room import memory_rows
from vco.training.starting import source_problems
from vco.training.stopping import requeue
from vco.training.trackers import log_scores, missing_trackers

NOT_READY: Final = 3
"""Exit status of a dry run that found something missing or in the way."""


def run_job(invocation: Invocation) -> int:
    """Does what a command line asks for; returns its exit status.

    Raises:
        UserError: if the components do not fit together, files are missing, or training cannot go on.
    """
    config = invocation.config
    # Everything is checked on a model without weights, as those of a large one take a minute to initialise.
    chosen = (config, invocation.catalog, invocation.origin)
    plan = assemble(*chosen, device="meta", processes=process_count(), data=invocation.data)
    folder, missing = RunFolder(Path(config.output_dir)), [*plan.missing(), *missing_trackers(config)]
    missing += [] if folder.trained else source_problems(plan)
    if invocation.dry_run:
        return _say_what_would_be_done(invocation, plan, folder, missing)
    if missing:
        raise UserError("\n".join(missing))
    if invocation.refresh and not folder.trained:
        raise UserError(
            f"--refresh does again what a finished run did, and {folder.path} holds none; leave it out to train one"
        )

    steps, accelerator = config.train.steps, connect_processes(config)
    main = accelerator.is_main_process
    try:
        done = folder.newest_step == steps and _is_finished(folder, plan, steps)
        if done and not folder.writable and not invocation.refresh:
            folder.refuse_another_run(invocation)
            _say_finished(invocation, folder, print if main else lambda line: None)
            return 0
        # a run that is refused leaves no folder behind
        with ExitStack() as stack, gone_if_empty(folder.path) if main else nullcontext():
            with errors_shared():
                if main:
                    stack.callback(folder.claim(invocation).close)
            if main:
                print(describe(invocation, plan, _device(accelerator)), flush=True)
            with losses_of_processes_named():
                return _work(invocation, accelerator, folder, plan.data)
    finally:
        disconnect_processes(accelerator)


def _say_what_would_be_done(invocation: Invocation, plan: Run, folder: RunFolder, missing: Sequence[str]) -> int:
    """The dry run: prints the plan, and what stands in its way; exits with `NOT_READY` if anything does."""
    print(describe(invocation, plan, "nothing (dry run)"), flush=True)
    print(in_rows(memory_rows(plan, process_count(), invocation.gpu_memory)))
    for sentence in missing:
        print(f"to train, still needed: {sentence}")
    try:
        folder.refuse_another_run(invocation)
    except UserError as error:
        print(error)
        return NOT_READY
    return NOT_READY if missing else 0


def _device(accelerator: Accelerator) -> str:
    """What the processes run on."""
    count = accelerator.num_processes
    return f"{accelerator.device}, {count} process{'es' if count > 1 else ''}"


def _work(invocation: Invocation, accelerator: Accelerator, folder: RunFolder, data: Data) -> int:
    main, steps = accelerator.is_main_process, invocation.config.train.steps
    say: Callable[[str], None] = print if main else lambda line: None
    with errors_shared():
        run = assemble(invocation.config, invocation.catalog, invocation.origin, data=data)
        run.load()
        run = attrs.evolve(run, facts=_facts(run, folder))
        load_weak(run, invocation.catalog, accelerator.device)
    with errors_shared():
        training = Training(run, accelerator, folder)
        training.begin()
        if training.step > steps:
            raise UserError(
                f"the run in {folder.path} is already at step {training.step}, and train.steps is {steps}; "
                f"set --train.steps to {training.step} or more, or choose another --output-dir"
            )
    if training.step < steps:
        if training.step:
            say(f"resuming after step {training.step} of {steps}")
        if main:
            folder.record(invocation, run.facts)
            now = session(invocation, accelerator, training.step)
            for sentence in changed_code(folder.earlier_sessions(), now):
                say(sentence)
            folder.begin_session(now)
        training.note_cost()
        if stopped := training.train(LiveReport(folder) if main else None):
            say(f"stopped by a signal after step {training.step}; the same command goes on from there")
            if main and (sentence := requeue(stopped)):
                say(sentence)
            return 128 + stopped
    elif _is_finished(folder, run, steps) and not invocation.refresh:
        _say_finished(invocation, folder, say)
        return 0
    _finish(invocation, training, say)
    return 0


def _is_finished(folder: RunFolder, run: Run, steps: int) -> bool:
    """Whether nothing is left to be done after the last training step."""
    scored = not run.metrics or evaluated_step(folder) == steps
    return scored and folder.report.exists()


def _say_finished(invocation: Invocation, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Says that there is nothing to do."""
    say(f"this run is finished ({invocation.config.train.steps} steps): see {folder.report}")
    if ignored := folder.other_settings(invocation):
        say(f"nothing was done with {', '.join(ignored)}, which differ from before")
    say("add --refresh to sample, evaluate and report anew, or --train.steps N to train longer")


def _facts(run: Run, folder: RunFolder) -> RunFacts:
    """What is to be known of data and weights later.

    Raises:
        UserError: if they are not what the run in the folder was trained on.
    """
    data = run.data
    sets = {"train": data.train(), "test": data.test()}
    facts = attrs.evolve(
        run.facts,
        class_names=tuple(data.class_names()),
        class_counts={
            split: tuple(images.labels.bincount(minlength=data.num_classes).tolist()) for split, images in sets.items()
        },
        contents={"data": content.of_data(data)}
        | {path: content.of_weights(part) for path, part in run.frozen_in_training.items() if part.state_dict()},
    )
    if folder.trained and folder.facts.exists():
        content.require_equal(folder.read_facts().contents, facts.contents, str(folder.path))
    return facts


def _finish(invocation: Invocation, training: Training, say: Callable[[str], None]) -> None:
    """Evaluates the trained model and writes the report."""
    folder, steps = training.folder, training.step
    young = young_average(next(iter(training.config.ema_decays), None), steps)
    results = training.evaluation.score(training.averaged(), notes=[young] if young else [])
    if young and not results:
        say(f"note: {young}")
    if invocation.refresh:
        training.sample()
    main = training.accelerator.is_main_process
    if main:
        folder.report.unlink(missing_ok=True)  # until there is one of this score
        folder.record(invocation, training.run.facts)
        if results:
            write_results(results, training.run, steps, folder)
            log_scores(training.accelerator, steps, [result.plain() for result in results])
        else:
            folder.eval.unlink(missing_ok=True)
    write_trajectory(training.run, training.averaged(), folder, training.accelerator)
    if main:
        write_report(folder)
    scores = " | ".join(f"{r.score.name} {r.score.value:.3f}" for r in results)
    done = f"{scores} of the EMA model" if results else "not scored (--metric none)"
    real = f" (real images: {', '.join(f'{r.real_value:.3f}' for r in results)})" if results else ""
    again = f"go on: the same command with --train.steps {2 * steps}"
    say(f"{done} after {steps} steps{real} | {folder.report} | {again}")


def describe(invocation: Invocation, run: Run, device: str) -> str:
    """What is being run: components, parameter counts, data, device."""
    config, objective = run.config, run.objective

    def count(module: Any) -> str:
        return f"{sum(p.numel() for p in module.parameters() if p.requires_grad):,} parameters"

    def name(section: str) -> str:
        return config.part(section).name

    streams = ", ".join(f"{stream} {'x'.join(map(str, spec.shape))}" for stream, spec in objective.specs.items())
    used = "features" if objective.sources else "features (not used)"
    encoders = ", ".join(run.facts.encoders) if objective.sources else ", ".join(config.all_of("features"))
    rows = [
        ("preset", invocation.preset or "none"),
        ("data", f"{name('data')}: {run.facts.num_classes} classes, {'x'.join(map(str, run.facts.image_shape))}"),
        ("codec", name("codec")),
        ("backbone", f"{name('backbone')}: {count(objective.backbone)}, {objective.backbone.depth} blocks"),
        (used, encoders or "none"),
        ("adapter", f"{name('adapter')}: {count(objective.adapter)}"),
        ("streams", streams),
        *(
            ("loss", f"{loss} x {part.config.weight:g}: {count(objective.losses[loss])}")
            for loss, part in config.all_of("loss").items()
        ),
        ("guidance", name("guidance")),
        ("process, solver", f"{name('process')}, {name('solver')} in {config.sample.steps} steps"),
        ("training", f"{config.train.steps} steps of {config.train.batch_size} images, {name('optimizer')}"),
        ("metric", ", ".join(f"{m.part.name} ({m.setting.encoder})".replace(" ()", "") for m in run.metrics) or "none"),
        ("device", device),
        ("run folder", config.output_dir),
    ]
    if young := young_average(next(iter(config.train.ema_decays), None), config.train.steps):
        rows.append(("note", young))
    return in_rows(rows)


def in_rows(rows: Sequence[tuple[str, str]]) -> str:
    """Titles and values, a line each."""
    return "\n".join(f"{title:>16}  {value}" for title, value in rows)
