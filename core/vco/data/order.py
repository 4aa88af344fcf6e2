"""Which images make up which step: a pure function of (seed, step), so that a resume needs no state."""

from functools import lru_cache
from math import gcd

import torch
from torch import Tensor

from vco.errors import UserError
from vco.randomness import generator


class Order:
    """The images of every global batch.

    Plain shuffling runs through one permutation of the set per epoch. With `samples_per_class` = m, a batch holds
    batch_size / m whole class groups: classes take turns in a random order, all equally often, and each class runs
    through permutations of its own images. Groups are global: no process or accumulation step sees a part of one
    (V-Co's reference groups per GPU, so that there the GPU count changes the method).
    """

    def __init__(self, labels: Tensor, *, seed: int, batch_size: int, samples_per_class: int = 0) -> None:
        self.labels = labels
        self.seed = seed
        self.batch_size = batch_size
        self.samples_per_class = samples_per_class
        self._classes: list[Tensor] = []
        if samples_per_class:
            self._classes = [torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()]
            if (groups := batch_size // samples_per_class) > len(self._classes):
                raise UserError(
                    f"a batch of {groups} class groups needs as many classes with images, but the training set has "
                    f"{len(self._classes)}; raise --train.samples-per-class or lower --train.batch-size"
                )
        # what two neighbouring steps need, and no more: a permutation of ImageNet takes 10 MB
        self._permutation = lru_cache(maxsize=2 + 2 * len(self._classes))(self._draw_permutation)

    def _draw_permutation(self, size: int, *key: int | str) -> Tensor:
        return torch.randperm(size, generator=generator(self.seed, "order", *key))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Indices and epochs, int64 [batch_size] each, of the images of a global step; slot i is entry i."""
        if not self.samples_per_class:
            return self._stream(torch.arange(len(self.labels)), step * self.batch_size, self.batch_size)
        size = self.samples_per_class
        groups = self.batch_size // size
        count = len(self._classes)
        # In a turn, batches cut one cyclic order of the classes: distinct in a batch, all equally often in the turn.
        rounds = groups // gcd(groups, count)
        turn, place = divmod(step, count // gcd(groups, count))
        order: list[int] = self._permutation(count, "classes", turn).tolist()
        parts: list[tuple[Tensor, Tensor]] = []
        for position in range(place * groups, (place + 1) * groups):
            c, visit = order[position % count], turn * rounds + position // count
            parts.append(self._stream(self._classes[c], visit * size, size, c))
        return torch.cat([index for index, _ in parts]), torch.cat([epoch for _, epoch in parts])

    def _stream(self, members: Tensor, start: int, count: int, *key: int) -> tuple[Tensor, Tensor]:
        """`count` places from `start` on, in the endless sequence of permutations of `members`."""
        places = torch.arange(start, start + count)
        epochs = places // len(members)
        index = torch.empty_like(places)
        for epoch in epochs.unique().tolist():
            here = epochs == epoch
            index[here] = members[self._permutation(len(members), *key, epoch)[places[here] % len(members)]]
        return index, epochs
