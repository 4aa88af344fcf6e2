"""What `vco eval` measures with: the settings, the metrics with their encoders, and what images are held against."""

import argparse
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
from accelerate import Accelerator

from vco.api import Data, DataSetting, FeatureSource
from vco.compatibility import Compatibility
from vco.config.command_line import parse
from vco.config.resolve import resolve
from vco.config.settings import RunConfig
from vco.distributed import connect_processes, errors_shared
from vco.errors import UserError
from vco.evaluation.moments import Cache, is_moments_file, read_moments
from vco.evaluation.records import require_writable
from vco.evaluation.reference import DataReference, MomentsReference, Reference, StoredReference, set_hash
from vco.evaluation.stored import ARRAYS, array_headers, open_images
from vco.folder import RunFolder, differences
from vco.opened_run import OpenedRun, open_run
from vco.plugins.discovery import load_catalog
from vco.plugins.registry import Catalog
from vco.run import MetricChoice, Run, choose_metrics, load_frozen
from vco.sampling.settings import require_scale

MEASURING: Final = ("metric", "eval", "data", "train.workers")
"""Beginnings of options that act in measuring."""
SPLITS: Final = ("test", "train")
TIMEOUT: Final = 3600
"""Seconds that processes wait for the slowest of them, which may have one batch more than others."""


@attrs.frozen(kw_only=True)
class Bench:
    """A run that is ready to be measured."""

    opened: OpenedRun
    run: Run
    """Its components, with metrics whose encoders are loaded, and its data set if that is at hand."""
    accelerator: Accelerator
    references: Sequence[Reference]
    cache: Cache | None
    options: Sequence[str]
    """The options that act in sampling."""

    @property
    def say(self) -> Any:
        """Prints, in the first process."""
        return self.accelerator.print


@contextmanager
def bench(args: argparse.Namespace, options: Sequence[str]) -> Generator[Bench]:
    """Opens a run to measure it, with the options of the command.

    Raises:
        UserError: if it is no run, or something that is needed is not at hand.
    """
    catalog = load_catalog(without=args.no_plugin)
    sampling, measuring = sort_options(options)
    scale, ema = getattr(args, "scale", None), getattr(args, "ema", 0)
    opened = open_run(args.subject, step=args.step, ema=ema, options=sampling, catalog=catalog)
    if scale is not None:
        require_scale(opened.config)
        sampling = [*sampling, "--guidance.scale", scale]
        opened = open_run(args.subject, step=args.step, ema=ema, options=sampling, catalog=catalog)
    measuring += ["--eval.samples", str(args.num)] if args.num else []
    measuring += ["--eval.labels", args.labels] if args.labels else []
    config = measured_config(opened.folder, catalog, [*sampling, *measuring], opened.config)
    if not getattr(args, "neighbours", None):  # which adds no scores
        require_writable(getattr(args, "evals", None) or opened.folder.evals)
    accelerator = connect_processes(patient(config))
    try:
        with errors_shared():
            opened.device = accelerator.device
            facts = opened.run.facts
            metrics, scoring = metrics_of(config, catalog, facts.image_shape, facts.num_classes)
            data, why = data_of(config, catalog)
            if data is not None:
                require_same_classes(data, facts.num_classes, facts.image_shape, str(args.subject))
            run = attrs.evolve(opened.run, config=config, metrics=metrics, at_hand=data, frozen=scoring)
            wanted = args.against or ["test"]
            references = [reference_of(text, config, catalog, data, why, facts.num_classes) for text in wanted]
            load_onto(config, scoring, accelerator)
        yield Bench(
            opened=opened,
            run=run,
            accelerator=accelerator,
            references=references,
            cache=None if args.no_cache else Cache(),
            options=sampling,
        )
    finally:
        accelerator.end_training()


def sort_options(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options of `vco-run`: those that act in sampling, and those that act in measuring."""
    sampling, measuring = list[str](), list[str]()
    both, into = [sampling, measuring], [sampling]
    for part in options:
        if part.startswith("--"):
            name = part[2:].partition("=")[0]
            into = [measuring] if name.startswith(MEASURING) else both if name == "plugin" else [sampling]
        for target in into:
            target.append(part)
    return sampling, measuring


def measured_config(
    folder: RunFolder, catalog: Catalog, options: Sequence[str], trained: RunConfig | None = None
) -> RunConfig:
    """The settings of a run with others for measuring.

    Raises:
        UserError: if an option is none of these, or the run is to be scored by no metric.
    """
    config = folder.read_config(catalog, options)
    changed = list(differences(trained or folder.read_config(catalog), config))
    if changed:
        raise UserError(
            f"{', '.join(changed)} cannot be changed after training; options that act in measuring are those of "
            "--metric and --eval, and those that say where data lie"
        )
    if not config.all_of("metric"):
        raise UserError("there is no metric to score with; name one, as in --metric fd=digits-cnn")
    return config


def images_config(catalog: Catalog, options: Sequence[str], default: Sequence[str]) -> RunConfig:
    """The settings for images that are of no run: everything but metrics has its default.

    Args:
        catalog: the plugins.
        options: options of `vco-run`.
        default: options that choose a metric, if the others name none.

    Raises:
        UserError: if an option is about something else than measuring.
    """
    wrong = [part for part in sort_options(options)[0] if part.startswith("--") and not part.startswith("--plugin")]
    if wrong:
        raise UserError(f"{', '.join(wrong)} acts in sampling or training, and these images are made already")
    named = any(part.partition("=")[0] == "--metric" for part in options)
    return resolve(parse([*([] if named else default), *options]), catalog).config


def patient(config: RunConfig) -> RunConfig:
    """The settings with processes that wait longer for each other than in training."""
    return attrs.evolve(config, train=attrs.evolve(config.train, timeout=max(config.train.timeout, TIMEOUT)))


def metrics_of(
    config: RunConfig, catalog: Catalog, image_shape: tuple[int, int, int], num_classes: int
) -> tuple[list[MetricChoice], dict[str, FeatureSource]]:
    """The metrics of a configuration and their encoders, which are not loaded yet."""
    fit = Compatibility(config, catalog, {})
    found = choose_metrics(config, fit, image_shape, num_classes)
    fit.raise_problems()
    return found


def load_onto(config: RunConfig, encoders: Mapping[str, FeatureSource], accelerator: Accelerator) -> None:
    """Loads encoders, and moves them to the device of a process."""
    load_frozen(config, encoders)
    for encoder in encoders.values():
        encoder.to(accelerator.device)


def data_of(config: RunConfig, catalog: Catalog) -> tuple[Data | None, str]:
    """The data set of a run; None and a sentence if it is not at hand."""
    part = config.part("data")
    try:
        data: Data = Compatibility(config, catalog, {}).build("data", DataSetting())
        data.check()
    except UserError as error:
        return None, error.of(part.title, config.option_of("data"))
    return data, ""


def require_same_classes(data: Data, num_classes: int, shape: tuple[int, int, int], run: str) -> None:
    """Raises `UserError` if a data set is not such as a run was trained on."""
    if data.num_classes != num_classes:
        raise UserError(
            f"the run in {run} knows {num_classes} classes, and the data set that it is held against has "
            f"{data.num_classes}; name the data that it was trained on"
        )
    if tuple(data.image_shape) != shape:
        theirs, ours = ("x".join(map(str, of)) for of in (data.image_shape, shape))
        raise UserError(f"the run in {run} makes images of {ours}, and those of the data set are {theirs}")


def reference_of(
    text: str, config: RunConfig, catalog: Catalog, data: Data | None, why: str, num_classes: int | None
) -> Reference:
    """What --against names.

    Args:
        text: what was written.
        config: the settings that images are read with.
        catalog: the plugins.
        data: the data set of the run that is measured, if that is at hand.
        why: why it is not.
        num_classes: number of classes of the run that is measured; None where images are measured.

    Raises:
        UserError: if there is no such thing.
    """
    path = Path(text)
    if text in SPLITS:
        if data is None:
            raise UserError(f"{why}; or say with --against what images are held against, such as a file of moments")
        return _split_of(data, text, config, config.part("data").name)
    if (path / "config.yaml").is_file():
        other = RunFolder(path).read_config(catalog)
        theirs, why = data_of(other, catalog)
        if theirs is None:
            raise UserError(f"--against {text}: {why}")
        if num_classes is not None and theirs.num_classes != num_classes:
            raise UserError(
                f"--against {text}: that run's data have {theirs.num_classes} classes, and the run that is scored "
                f"knows {num_classes}; hold it against data of the same classes"
            )
        return _split_of(theirs, "test", config, f"{other.part('data').name} of {text}")
    if is_moments_file(path):
        file = read_moments(path)
        images = path.suffix == ".npz" and set(ARRAYS) & array_headers(path).keys()
        reference = (
            StoredReference(open_images(path), file, config.sample.batch_size) if images else MomentsReference(file)
        )
    elif path.exists():
        reference = StoredReference(open_images(path), None, config.sample.batch_size)
    else:
        raise UserError(
            f"--against {text}: there is no such file or folder; write test or train for the run's own data, or name a "
            "run, a folder of images, an npz file, or a file of moments"
        )
    if data is not None:  # what a perfect generator would make, but not the very images that it is held against
        reference.real = data.train() if reference.hash == set_hash(data.test()) else data.test()
    return reference


def _split_of(data: Data, split: str, config: RunConfig, name: str) -> DataReference:
    """One of the two sets of a data set; the other one is what a perfect generator would make."""
    here, there = (data.test(), data.train()) if split == "test" else (data.train(), data.test())
    title = f"{'held-out' if split == 'test' else 'training'} split of {name}"
    return DataReference(data, here, title, config, real=there)
