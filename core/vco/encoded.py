"""Features of a batch of images by encoder, each computed when it is first asked for."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vco.api import Features, FeatureSource


class Encoded(Mapping[str, Features]):
    """Encoder name -> the feature stream's view of a batch, without gradient; what adapters read."""

    def __init__(
        self, sources: Mapping[str, FeatureSource], images: Tensor, memory: dict[tuple[str, str], Features]
    ) -> None:
        """Computes nothing yet.

        Args:
            sources: the frozen encoders by name.
            images: [b, c, h, w] in [-1, 1].
            memory: what was computed, by view and name; the step's own, so that losses find it there.
        """
        self.sources, self.images, self.memory = sources, images, memory

    def __getitem__(self, name: str) -> Features:
        if ("features", name) not in self.memory:
            with torch.no_grad():
                self.memory["features", name] = self.sources[name](self.images)
        return self.memory["features", name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)
