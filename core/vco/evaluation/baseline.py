"""The score of real images, drawn by the law by which samples are drawn: what a perfect generator would get."""

import attrs
import torch
from jaxtyping import Int
from torch import Tensor

from vco.api import ImageSet
from vco.config.settings import RunConfig
from vco.evaluation.measure import Measure, Prepared
from vco.evaluation.reference import read_some
from vco.randomness import generator


@attrs.frozen(kw_only=True, eq=False)
class Drawn:
    """Images of a set, one for each wanted label as far as there are any."""

    indices: Int[Tensor, " n"]
    """Which images."""
    repeated: int
    """How many of them were drawn before, because their class has too few."""
    missing: int
    """Wanted labels of which the set has no image at all."""

    def notes(self, what: str) -> list[str]:
        """A sentence for everything that keeps these images from being a fresh draw."""
        notes: list[str] = []
        if self.repeated:
            notes.append(
                f"{self.repeated:,} of the {len(self.indices):,} {what} are repetitions, because their classes have "
                "too few: the score of real images is too good by that"
            )
        if self.missing:
            notes.append(f"{self.missing:,} images of classes without any {what} are missing in the score of real ones")
        return notes


def draw_like(wanted: Int[Tensor, " n"], labels: Int[Tensor, " size"], *key: int | str) -> Drawn:
    """An image for each wanted label: the images of a class in a seeded order, over and over.

    Args:
        wanted: label of each image that is drawn.
        labels: labels of the images of a set.
        key: what the order depends on.
    """
    chosen = torch.full_like(wanted, -1)
    repeated = 0
    for label in wanted.unique().tolist():
        places = torch.nonzero(wanted == label).flatten()
        members = torch.nonzero(labels == label).flatten()
        if len(members):
            order = members[torch.randperm(len(members), generator=generator(*key, label))]
            chosen[places] = order[torch.arange(len(places)) % len(members)]
            repeated += max(0, len(places) - len(members))
    there = chosen[chosen >= 0]
    return Drawn(indices=there, repeated=repeated, missing=len(wanted) - len(there))


def real_values(
    measure: Measure, prepared: Prepared, real: ImageSet, wanted: Int[Tensor, " n"], config: RunConfig
) -> tuple[dict[str, float], list[str]]:
    """The scores of real images, by name, and what a reader of them has to know.

    Args:
        measure: the metrics.
        prepared: what the images are held against.
        real: real images that are not among these.
        wanted: label of each image that is drawn.
        config: how images are read.
    """
    drawn = draw_like(wanted, real.labels, 0, "evaluation")
    batches = read_some(real, drawn.indices, measure, config)
    states = measure.gather(batches, len(measure.share(len(drawn.indices))), "real images", generated=True)
    values = {score.name: score.value for scores in measure.scores(states, prepared) for score in scores}
    return values, drawn.notes("real images")
