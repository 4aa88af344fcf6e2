"""Which images make up which step: a pure function of (seed, step), so that a resume needs no state."""

from functools import lru_cache
from math import gcd
from typing import Final

import torch
from torch import Tensor

from vco.api import Blocks
from vco.errors import UserError
from vco.randomness import generator

NEIGHBOURS: Final = 4
"""Windows whose shuffling is kept: what two neighbouring steps need, also across the end of an epoch."""


class Order:
    """The images of every global batch.

    Plain shuffling runs through one permutation of the set per epoch. With `blocks`, an epoch runs through windows of
    some blocks each, in random order, and through a permutation of each window; finding a step's place in it is
    arithmetic, and no permutation is longer than a window. With `samples_per_class` = m, a batch holds
    batch_size / m whole class groups: classes take turns in a random order, all equally often, and each class runs
    through permutations of its own images. Groups are global: no process or accumulation step sees a part of one
    (V-Co's reference groups per GPU, so that there the GPU count changes the method).
    """

    def __init__(
        self, labels: Tensor, *, seed: int, batch_size: int, samples_per_class: int = 0, blocks: Blocks | None = None
    ) -> None:
        self.labels = labels
        self.seed = seed
        self.batch_size = batch_size
        self.samples_per_class = samples_per_class
        self._classes: list[Tensor] = []
        self._blocks = blocks
        self._sizes = torch.tensor(blocks.sizes) if blocks else torch.empty(0)
        self._firsts = self._sizes.cumsum(0) - self._sizes
        if samples_per_class:
            if blocks:
                raise UserError(
                    f"class groups of {samples_per_class} images are drawn from the whole data set, and not from a few "
                    "blocks at a time; leave --data.window out, or set --train.samples-per-class 0"
                )
            self._classes = [torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()]
            if (groups := batch_size // samples_per_class) > len(self._classes):
                raise UserError(
                    f"a batch of {groups} class groups needs as many classes with images, but the training set has "
                    f"{len(self._classes)}; raise --train.samples-per-class or lower --train.batch-size"
                )
        # what two neighbouring steps need, and no more: a permutation of ImageNet takes 10 MB
        self._permutation = lru_cache(maxsize=2 + 2 * len(self._classes))(self._draw_permutation)
        self._windows = lru_cache(maxsize=2)(self._draw_windows)
        self._window = lru_cache(maxsize=NEIGHBOURS)(self._draw_window)

    def _draw_permutation(self, size: int, *key: int | str) -> Tensor:
        return torch.randperm(size, generator=generator(self.seed, "order", *key))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Indices and epochs, int64 [batch_size] each, of the images of a global step; slot i is entry i."""
        if not self.samples_per_class:
            return self._stream(None, step * self.batch_size, self.batch_size)
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

    def _stream(self, members: Tensor | None, start: int, count: int, *key: int) -> tuple[Tensor, Tensor]:
        """`count` places from `start` on, in the endless sequence of permutations of `members`, None for all images."""
        size = len(self.labels if members is None else members)
        places = torch.arange(start, start + count)
        epochs = places // size
        index = torch.empty_like(places)
        for epoch in epochs.unique().tolist():
            here = epochs == epoch
            if self._blocks:
                index[here] = self._in_windows(epoch, places[here] % size)
            else:
                chosen = self._permutation(size, *key, epoch)[places[here] % size]
                index[here] = chosen if members is None else members[chosen]
        return index, epochs

    def _in_windows(self, epoch: int, places: Tensor) -> Tensor:
        """The images at some places of an epoch that runs through windows of blocks."""
        _, ends = self._windows(epoch)
        windows = torch.searchsorted(ends, places, right=True)
        index = torch.empty_like(places)
        for window in windows.unique().tolist():
            here = windows == window
            images = self._window(epoch, window)
            index[here] = images[places[here] - (ends[window] - len(images))]
        return index

    def _draw_windows(self, epoch: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """The blocks of every window of an epoch, and the place at which each window ends."""
        assert self._blocks
        windows = self._draw_permutation(len(self._sizes), "blocks", epoch).split(self._blocks.window)
        return windows, torch.stack([self._sizes[window].sum() for window in windows]).cumsum(0)

    def _draw_window(self, epoch: int, window: int) -> Tensor:
        """The images of one window in the order in which they come."""
        blocks = self._windows(epoch)[0][window].tolist()
        images = torch.cat([torch.arange(int(self._sizes[block])) + self._firsts[block] for block in blocks])
        return images[self._draw_permutation(len(images), "window", epoch, window)]
