"""`vco eval FOLDER|NPZ`: the scores of images that somebody has made."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from vco.commands.eval_setup import (
    SPLITS,
    images_config,
    load_onto,
    measured_config,
    metrics_of,
    patient,
    reference_of,
    sort_options,
)
from vco.config.plain import as_text
from vco.config.settings import RunConfig
from vco.distributed import connect_processes, errors_shared
from vco.errors import UserError
from vco.evaluation import records
from vco.evaluation.baseline import real_values
from vco.evaluation.checks import Checks
from vco.evaluation.measure import Measure, Prepared
from vco.evaluation.moments import Cache, is_moments_file, read_moments
from vco.evaluation.protocol import UNKNOWN
from vco.evaluation.reference import Reference
from vco.evaluation.results import Result, describe_scores, results_of
from vco.evaluation.stored import StoredImages, open_images
from vco.evaluation.summary import summary
from vco.folder import RunFolder
from vco.plugins.discovery import load_catalog
from vco.plugins.registry import Catalog
from vco.sampling.labels import labels_of


def score_images(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Scores images in a folder or a file and prints what was found.

    Raises:
        UserError: if something cannot be as it is asked for.
    """
    catalog, stored = load_catalog(without=args.no_plugin), open_images(args.subject)
    if (args.num or 0) > stored.count:
        raise UserError(f"{args.subject} holds {stored.count:,} images, and --num asks for {args.num:,}")
    config = _config(args, options, catalog)
    if args.evals:
        records.require_writable(args.evals)
    accelerator = connect_processes(patient(config))
    try:
        with errors_shared():
            metrics, encoders = metrics_of(config, catalog, stored.shape, 0)
            references = [reference_of(text, config, catalog, None, "", None) for text in args.against]
            needs = [choice.part.name for choice in metrics if choice.part.component.needs_real]
            if needs and not references:
                raise UserError(
                    f"{needs[0]} holds images against real ones: name them with --against, as in --against RUN, a "
                    "folder, an npz file, or a file of moments"
                )
            try:
                load_onto(config, encoders, accelerator)
            except UserError as error:
                raise _or_another_network(error, options) from error
        described = _described(args, stored, Measure(metrics, accelerator, stored.shape, "--num"), references, config)
        accelerator.print(summary([described]))
        if args.evals and accelerator.is_main_process:
            records.append(args.evals, described, records.EVAL)
            print(f"all of it is in {args.evals}")
    finally:
        accelerator.end_training()
    return 0


def _or_another_network(error: UserError, options: Sequence[str]) -> UserError:
    """What keeps an encoder from being loaded, with the way around it where nobody has asked for this one."""
    if any(part.partition("=")[0] == "--metric" for part in options):
        return error
    sentence = str(error).removesuffix(".")
    return UserError(
        f"{sentence}; or score through another network, as in --metric fd=dinov2 (`vco plugins` lists them under "
        "features)"
    )


def _described(
    args: argparse.Namespace, stored: StoredImages, measure: Measure, references: Sequence[Reference], config: RunConfig
) -> dict[str, Any]:
    """The scores with all that they depend on, as plain data."""
    count, checks = args.num or stored.count, Checks()
    places = stored.part(count)
    law, mine = args.labels or stored.law(places), [places[number] for number in measure.share(count)]
    batches = stored.batches(mine, config.sample.batch_size)
    generated = measure.gather(batches, len(mine), "images", generated=True, checks=checks)
    results, notes = list[Result](), [*stored.notes, *checks.notes("images")]
    if not references:
        results += results_of(measure, generated, Prepared.nothing(len(measure.choices)), {}, count, law)
    for reference in references:
        prepared = reference.prepare(measure, None if args.no_cache else Cache())
        values: dict[str, float] = {}
        if reference.real is not None and not args.no_baseline:
            wanted = _labels(reference, stored, law, places, by_law=bool(args.labels))
            if wanted is None:
                notes.append("nobody says which classes the images have: --labels LAW lets real ones be scored too")
            else:
                values, more = real_values(measure, prepared, reference.real, wanted, config)
                notes += more
        results += results_of(measure, generated, prepared, values, count, law)
    if count < stored.count:
        which = "the first, as `vco sample` has made them" if stored.by_vco else "drawn at random, always the same ones"
        notes.append(f"{count:,} of {stored.count:,} images are scored: {which}")
    if stored.said.get("complete") is False:
        notes.append(f"`vco sample` has not finished these images: {count:,} are there")
    notes += [warning for result in results for warning in result.protocol.warnings()]
    about = {
        "images_of": str(args.subject),
        "images_sha256": checks.hash,
        "samples": count,
        "labels": law,
        "said": dict(stored.said),
    }
    return describe_scores(results, {**about, "notes": list(dict.fromkeys(notes))})


def _config(args: argparse.Namespace, options: Sequence[str], catalog: Catalog) -> RunConfig:
    """The settings: those of a run that images are held against, or defaults with the metric that fits a reference."""
    if split := [text for text in args.against if text in SPLITS]:
        raise UserError(
            f"--against {split[0]}: these images are of no run whose data could be meant; name the run, as in "
            "--against runs/NAME"
        )
    runs = [text for text in args.against if (Path(text) / "config.yaml").is_file()]
    if runs:
        sampling, measuring = sort_options(options)
        if wrong := [part for part in sampling if part.startswith("--") and not part.startswith("--plugin")]:
            raise UserError(f"{', '.join(wrong)} acts in sampling or training, and these images are made already")
        return measured_config(RunFolder(Path(runs[0])), catalog, measuring)
    default = ["--metric", "fd=inception"]
    for text in args.against:
        encoder = read_moments(Path(text)).about.get("encoder") if is_moments_file(Path(text)) else None
        if encoder:
            name = encoder["name"]
            default = ["--metric", f"fd={name}"]
            for option, value in encoder["settings"].items():
                default += [f"--metric.fd.{name}.{option}", as_text(value)]
            break
    return images_config(catalog, options, default)


def _labels(
    reference: Reference, stored: StoredImages, law: str, places: Sequence[int], by_law: bool
) -> Int[Tensor, " n"] | None:
    """The classes by which real images are drawn; None where nobody knows those of the images."""
    if stored.labels is not None and not by_law:
        labels = stored.labels[list(places)]
        classes, largest = reference.num_classes, int(labels.max())
        if classes is not None and largest >= classes:
            raise UserError(
                f"the images have the label {largest}, and what they are held against has {classes} classes, numbered "
                "from 0: give --labels LAW instead, or leave the score of real images out with --no-baseline"
            )
        return labels
    if law == UNKNOWN or reference.real is None or reference.num_classes is None:
        return None
    counts = reference.real.labels.bincount(minlength=reference.num_classes).tolist()
    return labels_of(law, range(len(places)), num_classes=reference.num_classes, counts=counts, seed=0)
