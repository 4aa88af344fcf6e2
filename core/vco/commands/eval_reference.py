"""`vco eval reference`: the moments of real images as an encoder sees them, as a file to hold images against."""

import argparse
from collections.abc import Callable, Iterator, Sequence

import attrs
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vco.api import Data, ImageSet
from vco.commands.eval_setup import (
    data_of,
    images_config,
    load_onto,
    measured_config,
    metrics_of,
    patient,
    sort_options,
)
from vco.config.settings import RunConfig
from vco.distributed import connect_processes, errors_shared
from vco.errors import UserError
from vco.evaluation.baseline import draw_like
from vco.evaluation.checks import Checks
from vco.evaluation.measure import Measure
from vco.evaluation.moments import write_moments
from vco.evaluation.protocol import full_digest
from vco.evaluation.reference import read_some, set_hash
from vco.evaluation.stored import StoredImages, open_images
from vco.folder import RunFolder
from vco.plugins.discovery import load_catalog
from vco.randomness import generator
from vco.sampling.labels import AS_DATA, BALANCED, labels_of
from vco.storage.files import require_place

Batches = Iterator[UInt8[Tensor, "b c h w"]]


@attrs.frozen(kw_only=True)
class _Real:
    """The images that a reference is made of."""

    name: str
    hash: str
    count: int
    shape: tuple[int, int, int]
    labels: str
    """Law of their classes."""
    batches: Callable[[Measure], Batches]
    """One process's share of them."""
    notes: Sequence[str] = ()


def write_reference(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Computes the moments and writes them, with the encoder, its weights' hash, the images and their number.

    Raises:
        UserError: if something cannot be as it is asked for.
    """
    if args.out.suffix not in (".safetensors", ".npz"):
        raise UserError(f"--out {args.out}: a reference is written as .safetensors or as .npz; end its name so")
    require_place(args.out, "--out")
    catalog = load_catalog(without=args.no_plugin)
    sampling, measuring = sort_options(options)
    if (args.subject / "config.yaml").is_file():
        if wrong := [part for part in sampling if part.startswith("--") and not part.startswith("--plugin")]:
            raise UserError(f"{', '.join(wrong)} acts in sampling or training, and nothing is sampled here")
        config = measured_config(RunFolder(args.subject), catalog, measuring)
        data, why = data_of(config, catalog)
        if data is None:
            raise UserError(why)
        real = _of_data(data, args, config)
    else:
        config = images_config(catalog, options, ["--metric", "fd=inception"])
        real = _of_files(open_images(args.subject), args, config)
    accelerator = connect_processes(patient(config))
    try:
        with errors_shared():
            metrics, encoders = metrics_of(config, catalog, real.shape, 0)
            measure = Measure(metrics, accelerator, real.shape)
            able = [number for number in range(len(metrics)) if measure.takes_moments(number)]
            if len(able) != 1:
                named = ", ".join(f"{metrics[n].part.name}={metrics[n].setting.encoder}" for n in able) or "none"
                raise UserError(
                    f"a reference is made for one metric that moments are enough for, and {named} would be; choose "
                    "one, as in --metric fd=inception"
                )
            load_onto(config, encoders, accelerator)
        number, checks = able[0], Checks()
        found = measure.gather(
            real.batches(measure),
            len(measure.share(real.count)),
            "real images",
            generated=False,
            checks=checks,
            of=able,
        )
        moments = measure.moments(number, found[number])
        assert moments is not None, "a metric that moments are enough for has them"
        encoder = measure.encoder(number)
        about = {
            "name": real.name,
            "images": real.hash,
            "count": real.count,
            "image_shape": list(real.shape),
            "labels": real.labels,
            "encoder": encoder,
        }
        if accelerator.is_main_process:
            write_moments(args.out, moments, about)
            for note in (*real.notes, *checks.notes("images")):
                print(f"note: {note}")
            shape = "x".join(map(str, real.shape))
            print(
                f"{args.out}: moments of {real.name}, {real.count:,} images of {shape}, labels {real.labels}, as "
                f"{encoder['name']} sees them (weights SHA-256 {encoder['weights'][:12]}); use it with --against"
            )
    finally:
        accelerator.end_training()
    return 0


def _of_data(data: Data, args: argparse.Namespace, config: RunConfig) -> _Real:
    """Images of a data set: all of one of its sets, or some that are drawn by a law."""
    images: ImageSet = data.train() if args.split == "train" else data.test()
    name = f"{'training' if args.split == 'train' else 'held-out'} split of {config.part('data').name}"
    chosen, notes = _chosen(images, data.num_classes, args, name)
    whole = len(chosen) == len(images) and args.labels != BALANCED
    return _Real(
        name=name if whole else f"part of the {name}",
        hash=set_hash(images) if whole else full_digest({"set": set_hash(images), "images": chosen.tolist()}),
        count=len(chosen),
        shape=data.image_shape,
        labels=args.labels or AS_DATA,
        batches=lambda measure: read_some(images, chosen, measure, config),
        notes=notes,
    )


def _chosen(
    images: ImageSet, num_classes: int, args: argparse.Namespace, name: str
) -> tuple[Int[Tensor, " n"], Sequence[str]]:
    """The numbers of the images, and notes about them."""
    if args.labels == BALANCED:
        smallest = int(images.labels.bincount(minlength=num_classes).min())
        count = args.num or num_classes * smallest
        if count == 0:
            raise UserError(f"a class of the {name} has no image, so that classes cannot be balanced")
        drawn = draw_like(labels_of(BALANCED, range(count), num_classes=num_classes), images.labels, 0, "reference")
        repeated = [f"{drawn.repeated:,} images stand in it more than once, because their classes have too few"]
        return drawn.indices, repeated if drawn.repeated else []
    if (args.num or 0) > len(images):
        raise UserError(f"the {name} has {len(images):,} images, and --num asks for {args.num:,}")
    if args.num is None:
        return torch.arange(len(images)), []
    return torch.randperm(len(images), generator=generator(0, "reference"))[: args.num], []


def _of_files(stored: StoredImages, args: argparse.Namespace, config: RunConfig) -> _Real:
    """The images in a folder or a file, or some of them."""
    count = args.num or stored.count
    if count > stored.count:
        raise UserError(f"{args.subject} holds {stored.count:,} images, and --num asks for {count:,}")
    whole, places = stored.digest(), stored.part(count)
    return _Real(
        name=f"images in {stored.path.name}" if count == stored.count else f"part of {stored.path.name}",
        hash=whole if count == stored.count else full_digest({"files": whole, "images": list(places)}),
        count=count,
        shape=stored.shape,
        labels=args.labels or stored.law(places),
        batches=lambda measure: stored.batches([places[n] for n in measure.share(count)], config.sample.batch_size),
        notes=stored.notes,
    )
