"""The nearest training images of samples, in an encoder's features: what a model has learned by heart shows there."""

from collections.abc import Iterable, Iterator, Sequence

import attrs
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vco.api import FeatureSource
from vco.data.reader import to_float


@attrs.define
class Neighbours:
    """For each of some queries the nearest images seen so far, the nearest first."""

    queries: Float[Tensor, "q d"]
    """Features of the queries."""
    kept: int
    """How many images are kept for each."""
    distances: Float[Tensor, "q k"] = attrs.field(init=False)
    """Euclidean distances; infinite where fewer images were seen."""
    indices: Int[Tensor, "q k"] = attrs.field(init=False)
    """Numbers of these images; -1 where fewer were seen."""

    def __attrs_post_init__(self) -> None:
        """Begins without images."""
        self.distances = self.queries.new_full((len(self.queries), self.kept), torch.inf)
        self.indices = torch.full((len(self.queries), self.kept), -1, device=self.queries.device)

    def look(self, features: Float[Tensor, "b d"], indices: Int[Tensor, " b"]) -> None:
        """Takes some more images into account."""
        # exact, where the way by a matrix product finds a copy at some distance
        found = torch.cdist(self.queries, features, compute_mode="donot_use_mm_for_euclid_dist")
        self._keep(found, indices.to(self.queries.device).expand(len(self.queries), -1))

    def merge(self, others: Sequence["Neighbours"]) -> None:
        """Replaces what was seen by what several have seen, for the same queries."""
        seen = [(other.distances.to(self.queries), other.indices.to(self.queries.device)) for other in others]
        self.__attrs_post_init__()  # one of them may be this one
        for distances, indices in seen:
            self._keep(distances, indices)

    def _keep(self, distances: Float[Tensor, "q b"], indices: Int[Tensor, "q b"]) -> None:
        every, numbers = torch.cat([self.distances, distances], 1), torch.cat([self.indices, indices], 1)
        # by distance, and equal ones by number, so that neither batches nor processes matter
        order = numbers.argsort(dim=1, stable=True)
        order = order.gather(1, every.gather(1, order).argsort(dim=1, stable=True))[:, : self.kept]
        self.distances, self.indices = every.gather(1, order), numbers.gather(1, order)


@torch.no_grad()
def features_of(
    source: FeatureSource, batches: Iterable[UInt8[Tensor, "b c h w"]], device: torch.device
) -> Iterator[Float[Tensor, "b d"]]:
    """The pooled features of images, as metrics see them."""
    for images in batches:
        with torch.autocast(device.type, enabled=False):
            yield source.perceive(to_float(images.to(device))).pooled.float()


def verdict(samples: Float[Tensor, " n"], held_out: Float[Tensor, " m"]) -> list[str]:
    """What the distances to the nearest training image say: of samples, and of images that nobody can have learned.

    Args:
        samples: distance of each sample.
        held_out: distance of each held-out image.
    """
    limit = held_out.quantile(0.01).item()
    near, copies = int((samples < limit).sum()), int((samples == 0).sum())
    lines = [
        f"distance to the nearest training image, median: samples {samples.median():.4g}, held-out images "
        f"{held_out.median():.4g} (of {len(held_out):,})",
        f"{near} of {len(samples)} samples are nearer than {limit:.4g}, as 1 of 100 held-out images is: "
        f"{'more than' if near > max(1, 0.03 * len(samples)) else 'no more than'} chance",
    ]
    if copies:
        lines.append(f"{copies} of {len(samples)} samples have the features of a training image: they are copies")
    return lines
