"""The two commands: `vco-run` trains, samples, evaluates and reports; `vco` holds the other verbs."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vco.errors import LoneError, TrainingStoppedError, UserError
from vco.plugins import describe, load_catalog

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vco.resolve import Invocation
    from vco.run import Run


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
        return _say(str(error), error.status, alone=isinstance(error, LoneError))
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
    from vco.resolve import left_out, resolve

    invocation = resolve(argv, load_catalog(without=left_out(argv)))
    from vco.launch import meet, processes, together
    from vco.run import assemble

    # Everything is checked on a model without weights, as those of a large one take a minute to initialise.
    config = invocation.config
    plan = assemble(config, invocation.catalog, invocation.origin, device="meta", processes=processes())
    missing = plan.missing()
    if invocation.dry_run:
        print(_description(invocation, plan, "nothing (dry run)"))
        for sentence in missing:
            print(f"to train, still needed: {sentence}")
        return 0
    if missing:
        raise UserError("\n".join(missing))

    accelerator, folder, held = meet(config), Path(config.output_dir), None
    try:
        with together():
            held = _claim(folder, invocation) if accelerator.is_main_process else None
        if accelerator.is_main_process:
            print(_description(invocation, plan, str(accelerator.device)), flush=True)
        return _work(invocation, accelerator, folder)
    finally:
        if held is not None:
            held.close()
        accelerator.end_training()


def _work(invocation: "Invocation", accelerator: "Accelerator", folder: Path) -> int:
    from vco.evaluate import Evaluation, evaluated_step, write_score
    from vco.launch import together
    from vco.report import write_report
    from vco.run import assemble
    from vco.train import Training
    from vco.weak import load_weak

    main, steps = accelerator.is_main_process, invocation.config.train.steps
    say: Callable[[str], None] = print if main else lambda line: None
    with together():
        run = assemble(invocation.config, invocation.catalog, invocation.origin)
        run.load()
        load_weak(run, invocation.catalog, accelerator.device)
        training = Training(run, accelerator, folder)
        if training.step > steps:
            raise UserError(
                f"the run in {folder} is already at step {training.step}, and train.steps is {steps}; "
                f"set --train.steps to {training.step} or more, or choose another --output-dir"
            )
    if training.step < steps:
        if training.step:
            say(f"resuming after step {training.step} of {steps}")
        if main:
            _record(folder, invocation)
        if stopped := training.train():
            say(f"stopped by a signal after step {training.step}; the same command goes on from there")
            return 128 + stopped
    elif evaluated_step(folder) == steps and (folder / "report.html").exists() and not invocation.refresh:
        say(f"this run is finished ({steps} steps): see {folder / 'report.html'}")
        say("add --refresh to sample, evaluate and report anew, or --train.steps N to train longer")
        return 0
    score = Evaluation(run, accelerator).score(training.averaged())
    if main:
        if invocation.refresh:
            training.sample()
        (folder / "report.html").unlink(missing_ok=True)  # until there is one of this score
        _record(folder, invocation)
        write_score(score, run, steps, folder)
        write_report(folder, f"{folder.name}: {score.metric} {score.value:.3f}")
    say(
        f"{score.metric} {score.value:.3f} of the EMA model after {steps} steps (real images: "
        f"{score.real_value:.3f}) | {folder / 'report.html'} | go on: the same command with --train.steps {2 * steps}"
    )
    return 0


# Settings that may change when a run goes on, beside `of_sampling`: they change nothing that was computed before.
_MAY_CHANGE = (
    "output_dir", "sample.", "eval.", "evaluator.", "solver.", "train.steps", "train.checkpoint_every",
    "train.keep_checkpoints", "train.log_every", "train.sample_every", "train.workers", "train.timeout",
)  # fmt: skip


def _claim(folder: Path, invocation: "Invocation") -> Any:
    """Locks the run folder; what failed there before its first checkpoint binds nobody.

    Raises:
        UserError: if the folder cannot be written, is in use, or holds another run (the differences are shown).
    """
    from vco.config import of_sampling
    from vco.files import lock
    from vco.resolve import CHOICES, resolve, to_plain_run

    held = lock(folder)
    path = folder / "config.yaml"
    try:
        trained = any((folder / "checkpoints").glob("step-*"))
        if trained and not path.exists():
            raise UserError(f"{folder} holds checkpoints but no config.yaml; choose another --output-dir")
        if path.exists():
            # read back with today's defaults, so that an option that is new since then changes nothing
            try:
                before = _flat(to_plain_run(resolve(["--config", str(path)], invocation.catalog).config))
            except UserError as error:
                problem = f"{path} cannot be used; put it right or choose another --output-dir:"
                raise UserError("\n".join([problem, *(f"  {line}" for line in str(error).splitlines())])) from error
            now = _flat(to_plain_run(invocation.config))
            parts = [(section, getattr(invocation.config, section)) for section in CHOICES if section != "loss"]
            free = {f"{section}.{name}" for section, part in parts for name in of_sampling(type(part.config))}
            lines = [
                f"  {key}: {before.get(key, '(not set)')} there, {now.get(key, '(not set)')} here"
                for key in sorted((before.keys() | now.keys()) - free)
                if before.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE)
            ]
            if lines and trained:
                problem = f"{folder} holds a run with other settings; choose another --output-dir:"
                raise UserError("\n".join([problem, *lines]))
    except UserError:
        held.close()
        raise
    return held


def _record(folder: Path, invocation: "Invocation") -> None:
    """Writes config.yaml, and what its names came from, once they are true of what the folder holds."""
    import yaml

    from vco.files import write_atomic
    from vco.resolve import RECORD, to_plain_run

    write_atomic(folder / "config.yaml", yaml.safe_dump(to_plain_run(invocation.config), sort_keys=False))
    write_atomic(folder / RECORD, yaml.safe_dump(invocation.catalog.origins()))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 5}} -> {"train.steps": 5}; losses are flattened by their names."""
    if prefix == "loss":
        value = {item["name"]: item for item in value}
    if not isinstance(value, dict):
        return {prefix: value}
    parts = [_flat(part, f"{prefix}.{key}".lstrip(".")) for key, part in value.items()]
    return {path: leaf for part in parts for path, leaf in part.items()}


def _description(invocation: "Invocation", run: "Run", device: str) -> str:
    """What is being run: components, parameter counts, data, device."""
    config, objective = run.config, run.objective

    def count(module: Any) -> str:
        return f"{sum(p.numel() for p in module.parameters() if p.requires_grad):,} parameters"

    streams = ", ".join(f"{name} {'x'.join(map(str, spec.shape))}" for name, spec in objective.specs.items())
    used = "features" if objective.source is not None else "features (not used)"
    rows = [
        ("preset", invocation.preset or "none"),
        ("data", f"{config.data.name}: {run.data.num_classes} classes, {'x'.join(map(str, run.data.image_shape))}"),
        ("backbone", f"{config.backbone.name}: {count(objective.backbone)}, {objective.backbone.depth} blocks"),
        (used, config.features.name),
        ("adapter", f"{config.adapter.name}: {count(objective.adapter)}"),
        ("streams", streams),
        *(
            ("loss", f"{name} x {choice.config.weight:g}: {count(objective.losses[name])}")
            for name, choice in config.loss.items()
        ),
        ("guidance", config.guidance.name),
        ("process, solver", f"{config.process.name}, {config.solver.name} in {config.sample.steps} steps"),
        ("training", f"{config.train.steps} steps of {config.train.batch_size} images"),
        ("device", device),
        ("run folder", config.output_dir),
    ]
    return "\n".join(f"{name:>16}  {value}" for name, value in rows)


if __name__ == "__main__":
    sys.exit(main_run())
