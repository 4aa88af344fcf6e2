"""`vco eval RUN --neighbours N --out FILE.png`: samples beside the training images that are nearest to them."""

import argparse
from collections.abc import Sequence

import torch
from accelerate.utils import gather_object
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vco.api import FeatureSource, ImageSet
from vco.commands.eval_setup import Bench, bench
from vco.distributed import errors_shared
from vco.errors import UserError
from vco.evaluation.measure import Measure
from vco.evaluation.neighbours import Neighbours, features_of, verdict
from vco.evaluation.reference import read_some
from vco.randomness import generator
from vco.sampling.labels import labels_of
from vco.sampling.pictures import png, sheet
from vco.sampling.sample import sample_many
from vco.storage.files import require_place, write_atomic

SHOWN = 24
"""Rows of the picture: the samples that are nearest to a training image."""
BESIDE = 4
"""Training images beside each sample."""
HELD_OUT = 1000
"""Held-out images whose distances are looked at, at most."""


def show_neighbours(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Draws the picture, and says whether samples are nearer to training images than held-out images are.

    Raises:
        UserError: if the data set is not at hand, or no metric has an encoder.
    """
    if args.out is None or args.out.suffix != ".png":
        raise UserError("say where the picture of the neighbours goes: --out FILE.png")
    require_place(args.out, "--out")
    if args.seeds and len(args.seeds) > 1:
        raise UserError("neighbours are shown of one seed; leave all but one out of --seeds")
    with bench(args, options) as ready:
        run, device = ready.run, ready.accelerator.device
        encoders = [choice for choice in run.metrics if choice.source is not None]
        if run.at_hand is None or not encoders:
            lack = "a metric with an encoder" if run.at_hand else "the run's data set at hand"
            raise UserError(f"neighbours are training images that are near in an encoder's features: that needs {lack}")
        source, name = encoders[0].source, encoders[0].setting.encoder
        assert source is not None
        measure, train = Measure((), ready.accelerator, run.facts.image_shape), run.data.train()
        images = _samples(ready, measure, args.neighbours, args.seeds[0] if args.seeds else run.config.seed)
        samples = torch.cat([*features_of(source, images.split(run.config.sample.batch_size), device)])
        held_out = _held_out(ready, measure, source).to(samples)
        found = Neighbours(torch.cat([samples, held_out]), BESIDE)
        every, place = torch.arange(len(train)), 0
        mine = every[list(measure.share(len(train)))]
        bar = tqdm(total=len(mine), desc="training images", unit="image", leave=False, disable=None)
        with errors_shared(), bar:
            for features in features_of(source, read_some(train, every, measure, run.config), device):
                found.look(features, mine[place : place + len(features)])
                place += len(features)
                bar.update(len(features))
        found.merge(gather_object([found]))
        if ready.accelerator.is_main_process:
            write_atomic(args.out, png(_picture(images, found, train, name)))
        nearest = found.distances[:, 0].cpu()
        ready.say("\n".join(verdict(nearest[: len(images)], nearest[len(images) :])))
        ready.say(f"{args.out}: the {min(SHOWN, len(images))} samples nearest to a training image, as {name} sees them")
    return 0


def _samples(ready: Bench, measure: Measure, count: int, seed: int) -> UInt8[Tensor, "n c h w"]:
    """Images of the run, in their order on every process."""
    run, facts = ready.run, ready.run.facts
    law, counts = run.config.eval.labels, facts.class_counts.get("train", ())
    labels = labels_of(law, range(count), num_classes=facts.num_classes, counts=counts, seed=seed)
    mine, device = measure.share(count), ready.accelerator.device
    images = torch.zeros(0, *facts.image_shape, dtype=torch.uint8)
    with ready.accelerator.autocast():
        batches = [*sample_many(run, ready.opened.guided(), labels[list(mine)], mine, device, seed)]
    places = gather_object([(list(mine), torch.cat([images, *batches]))])
    order = torch.tensor([place for where, _ in places for place in where]).argsort()
    return torch.cat([part for _, part in places])[order]


def _held_out(ready: Bench, measure: Measure, source: FeatureSource) -> Float[Tensor, "m d"]:
    """Features of held-out images, the same ones in any run."""
    test, device = ready.run.data.test(), ready.accelerator.device
    chosen = torch.randperm(len(test), generator=generator(0, "neighbours"))[:HELD_OUT]
    with errors_shared():
        features = [*features_of(source, read_some(test, chosen, measure, ready.run.config), device)]
    return torch.cat([part.cpu() for part in gather_object(features)])


def _picture(images: UInt8[Tensor, "n c h w"], found: Neighbours, train: ImageSet, encoder: str) -> Image.Image:
    """The samples nearest to a training image, a row each: the sample, and the training images beside it."""
    rows: list[tuple[str, list[Tensor]]] = []
    nearest = found.distances[: len(images), 0].argsort(stable=True)[:SHOWN].tolist()
    for number in nearest:
        indices, distances = found.indices[number].tolist(), found.distances[number].tolist()
        beside = [train.image(index, None) for index in indices if index >= 0]
        text = ", ".join(f"{value:.3g}" for value in distances[: len(beside)])
        rows.append((f"sample {number}\n{text}", [images[number], *beside]))
    titles = ["sample", *(f"nearest {place + 1}" for place in range(len(rows[0][1]) - 1))]
    return sheet(titles, rows, corner=f"distances\nin {encoder}", rows_per_block=1)
