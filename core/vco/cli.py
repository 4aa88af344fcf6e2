"""The two commands: `vco-run` trains, samples, evaluates and reports; `vco` holds the other verbs."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vco.errors import TrainingStoppedError, UserError
from vco.plugins import describe, load_catalog

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vco.resolve import Invocation
    from vco.run import Run
    from vco.settings import RunConfig

T = TypeVar("T")


def main_vco(argv: Sequence[str] | None = None) -> int:
    """The command `vco`."""
    parser = argparse.ArgumentParser(prog="vco", description="Look at what vco offers; `vco-run` is the main job.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    plugins = verbs.add_parser("plugins", help="list every component, preset and plugin, broken ones with the reason")
    plugins.add_argument("--no-plugin", action="append", default=[], metavar="NAME", help="a plugin to leave out")
    check = verbs.add_parser("check", help="check that a plugin keeps the contracts of vco.api, law by law")
    check.add_argument("plugin", metavar="MODULE", help="module with the hooks, or name of an entry point")
    check.add_argument("--only", default="", metavar="ID", help="only ids that begin so, as in loss/my-loss")
    check.add_argument("--slow", action="store_true", help="also laws that take seconds, such as torch.compile")
    check.add_argument(
        "--set", action="append", default=[], metavar="ID.OPTION=VALUE", help="test with this, as in data/mine.root=DIR"
    )
    check.add_argument("--xfail", action="append", default=[], metavar="ID", help="a check that is broken on purpose")
    args = parser.parse_args(argv)
    if args.verb == "check":
        from vco.testing.command import check as run_check

        try:
            return run_check(args.plugin, args.only, args.slow, args.set, args.xfail)
        except UserError as error:
            print("\n".join(f"vco: {line}" for line in str(error).splitlines()), file=sys.stderr)
            return error.status
    print(describe(load_catalog(without=args.no_plugin)))
    return 0


def main_run(argv: Sequence[str] | None = None) -> int:
    """The command `vco-run`; exits with 0 done, 1 training failed, 2 the user's mistake, 128 + n on signal n."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print("\n".join(f"vco-run: {line}" for line in str(error).splitlines()), file=sys.stderr, flush=True)
        return error.status
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, or a file of the run folder that is not what it should be
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"vco-run: {error}; put that right, then the same command goes on", file=sys.stderr, flush=True)
        return TrainingStoppedError.status
    except KeyboardInterrupt:
        print("vco-run: interrupted; the same command goes on from there", file=sys.stderr, flush=True)
        return 130


def _run(argv: Sequence[str]) -> int:
    from vco.resolve import left_out, resolve
    from vco.run import assemble

    catalog = load_catalog(without=left_out(argv))
    invocation = resolve(argv, catalog)
    config = invocation.config
    # Everything is checked on a model without weights, as those of a large one take a minute to initialise.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    plan = assemble(config, invocation.catalog, invocation.origin, device="meta", processes=processes)
    missing = plan.missing()
    if invocation.dry_run:
        print(_description(invocation, plan, "nothing (dry run)"))
        for sentence in missing:
            print(f"to train, still needed: {sentence}")
        return 0
    if missing:
        raise UserError("\n".join(missing))

    accelerator = _accelerator(config)
    folder = Path(config.output_dir)
    held = _on_main(accelerator, lambda: _claim(folder, invocation))
    if accelerator.is_main_process:
        print(_description(invocation, plan, str(accelerator.device)), flush=True)
    try:
        run = assemble(config, invocation.catalog, invocation.origin)
        return _work(invocation, run, accelerator, folder)
    finally:
        if held is not None:
            held.close()
        accelerator.end_training()


def _work(invocation: "Invocation", run: "Run", accelerator: "Accelerator", folder: Path) -> int:
    from vco.evaluate import Evaluation, evaluated_step, write_score
    from vco.report import write_report
    from vco.train import Training
    from vco.weak import load_weak

    for source in run.sources.values():
        source.load()
        source.requires_grad_(False).eval()
    load_weak(run, invocation.catalog, accelerator.device)
    training = Training(run, accelerator, folder)
    steps = run.config.train.steps
    say: Callable[[str], None] = print if accelerator.is_main_process else lambda line: None
    if 0 < training.step < steps:
        say(f"resuming after step {training.step} of {steps}")
    if training.step < steps:
        if stopped := training.train():
            say(f"stopped by a signal after step {training.step}; the same command goes on from there")
            return 128 + stopped
    elif evaluated_step(folder) == training.step and (folder / "report.html").exists() and not invocation.refresh:
        say(f"this run is finished ({training.step} steps): see {folder / 'report.html'}")
        say("add --refresh to sample, evaluate and report anew, or --train.steps N to train longer")
        return 0
    score = Evaluation(run, accelerator).score(training.averaged())
    if accelerator.is_main_process:
        if invocation.refresh:
            training.sample()
        (folder / "report.html").unlink(missing_ok=True)  # until there is one of this score
        write_score(score, run, training.step, folder)
        write_report(folder, f"{folder.name}: {score.metric} {score.value:.3f}")
    say(
        f"{score.metric} {score.value:.3f} of the EMA model after {training.step} steps (real images: "
        f"{score.real_value:.3f}) | {folder / 'report.html'} | go on: the same command with --train.steps {2 * steps}"
    )
    return 0


def _accelerator(config: "RunConfig") -> "Accelerator":
    """Device, processes and precision.

    Raises:
        UserError: if a launcher started several processes that do not see each other.
    """
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    cuda = torch.cuda.is_available()
    bf16 = cuda and torch.cuda.is_bf16_supported()
    precision = {"auto": "bf16" if bf16 else "no", "fp32": "no", "bf16": "bf16"}[config.mixed_precision]
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision=precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=config.train.timeout))],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise UserError(
            f"the launcher started {launched} processes but {accelerator.num_processes} see each other; "
            "start them with torchrun, or set ACCELERATE_USE_CPU=true on machines without a GPU"
        )
    return accelerator


def _on_main(accelerator: "Accelerator", action: Callable[[], T]) -> T | None:
    """Runs an action in the main process; its `UserError` is raised in all of them, so that none waits for ever."""
    from accelerate.utils import broadcast_object_list

    result: T | None = None
    failure: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            result = action()
        except UserError as error:
            failure = [str(error)]
    if accelerator.num_processes > 1:
        broadcast_object_list(failure)
    if failure[0] is not None:
        raise UserError(failure[0])
    return result


# Settings that may change when a run goes on: they do not change what the steps already done have computed.
_MAY_CHANGE = (
    "output_dir", "sample.", "eval.", "evaluator.", "solver.",
    "train.steps", "train.checkpoint_every", "train.keep_checkpoints", "train.log_every", "train.sample_every",
    "train.workers", "train.timeout",
)  # fmt: skip


def _claim(folder: Path, invocation: "Invocation") -> Any:
    """Locks the run folder and writes config.yaml there; what failed before its first checkpoint binds nobody.

    Raises:
        UserError: if the folder cannot be written, is in use, or holds another run (the differences are shown).
    """
    import yaml

    from vco.files import lock, make_folder, write_atomic
    from vco.resolve import RECORD, resolve, to_plain_run

    make_folder(folder)
    held = lock(folder)
    path = folder / "config.yaml"
    plain = to_plain_run(invocation.config)
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
            now = _flat(plain)
            lines = [
                f"  {key}: {before.get(key, '(not set)')} there, {now.get(key, '(not set)')} here"
                for key in sorted(before.keys() | now.keys())
                if before.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE)
            ]
            if lines and trained:
                problem = f"{folder} holds a run with other settings; choose another --output-dir:"
                raise UserError("\n".join([problem, *lines]))
        write_atomic(path, yaml.safe_dump(plain, sort_keys=False))
        write_atomic(folder / RECORD, yaml.safe_dump(invocation.catalog.origins()))
    except UserError:
        held.close()
        raise
    return held


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 5}} -> {"train.steps": 5}; a list of components is flattened by their names."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        value = {item["name"]: {k: v for k, v in item.items() if k != "name"} | {"chosen": True} for item in value}
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        path: leaf
        for key, part in value.items()
        for path, leaf in _flat(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


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
