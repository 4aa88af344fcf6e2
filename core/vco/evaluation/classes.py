"""How much an encoder knows of the classes of held-out images: its own classifier, and its nearest neighbours."""

from collections.abc import Iterable, Iterator
from typing import Final

import attrs
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vco.api import FeatureSource
from vco.data.reader import to_float
from vco.evaluation.neighbours import Neighbours

NEIGHBOURS: Final = 10
"""Training images that vote on the class of a held-out one."""


@attrs.frozen(kw_only=True)
class Known:
    """What an encoder knows of some held-out images."""

    images: int
    """How many they are."""
    accuracy: float | None
    """Share whose class its own classifier tells, in [0, 1]; None if it is no classifier."""
    neighbours: float | None
    """Share whose class is that of most of the ten nearest training images; None where all have one class."""
    chance: float
    """Share that has the most frequent class."""

    def plain(self) -> dict[str, float | int | None]:
        """As plain data."""
        return attrs.asdict(self)

    @property
    def sentence(self) -> str:
        """In words."""
        said = [f"its classifier tells {self.accuracy:.1%}"] if self.accuracy is not None else []
        said += [f"{NEIGHBOURS} nearest neighbours tell {self.neighbours:.1%}"] if self.neighbours is not None else []
        if not said:
            return f"{self.images:,} held-out images have no classes by which an encoder could be scored"
        return f"of {self.images:,} held-out images {', '.join(said)} (always the same class: {self.chance:.1%})"


@torch.no_grad()
def known_by(
    source: FeatureSource,
    train: Iterable[tuple[UInt8[Tensor, "b c h w"], Int[Tensor, " b"]]],
    held_out: Iterable[tuple[UInt8[Tensor, "b c h w"], Int[Tensor, " b"]]],
    device: torch.device,
) -> Known:
    """Asks an encoder for the classes of held-out images.

    Args:
        source: the encoder, loaded and on the device.
        train: training images and their classes, in batches.
        held_out: held-out images and theirs.
        device: where to compute.
    """
    seen = list(_seen(source, held_out, device))
    queries = torch.cat([pooled for pooled, _, _ in seen])
    labels = torch.cat([label for _, _, label in seen])
    told = [logits.argmax(1).cpu() == label for _, logits, label in seen if logits is not None]
    found, classes = Neighbours(queries, NEIGHBOURS), list[Tensor]()
    for pooled, _, label in _seen(source, train, device):
        first = sum(map(len, classes))
        found.look(pooled, torch.arange(first, first + len(pooled)))
        classes.append(label)
    known = torch.cat(classes)
    voted = known[found.indices.clamp(min=0).cpu()].mode(1).values
    several = int(torch.cat([known, labels]).max()) > 0
    return Known(
        images=len(labels),
        accuracy=torch.cat(told).float().mean().item() if told and several else None,
        neighbours=(voted == labels).float().mean().item() if several else None,
        chance=(labels == known.mode().values).float().mean().item(),
    )


def _seen(
    source: FeatureSource, batches: Iterable[tuple[UInt8[Tensor, "b c h w"], Int[Tensor, " b"]]], device: torch.device
) -> Iterator[tuple[Float[Tensor, "b d"], Tensor | None, Int[Tensor, " b"]]]:
    """Pooled features of length 1, so that distances are angles; logits; classes."""
    for images, labels in batches:
        with torch.autocast(device.type, enabled=False):
            features = source.perceive(to_float(images.to(device)))
        yield F.normalize(features.pooled.float(), dim=1), features.logits, labels
