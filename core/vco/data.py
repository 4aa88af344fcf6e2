"""Which images make up which step: a pure function of (seed, step), so that a resume needs no state."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from functools import lru_cache
from math import gcd
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vco.api import ImageSet
from vco.errors import LoneError, UserError
from vco.randomness import generator
from vco.settings import TrainConfig


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


@attrs.frozen
class _Reader(Dataset[Tensor]):
    """Reads image (index, epoch); its augmentation is a function of (seed, epoch, index)."""

    images: ImageSet
    seed: int | None

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        index, epoch = key
        return self.images.image(index, None if self.seed is None else generator(self.seed, "augment", epoch, index))


def _ignore_signals(worker: int) -> None:
    # A scheduler signals the whole process group: readers that died first would keep the trainer from saving.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@atexit.register
def _end_readers() -> None:
    # multiprocessing would send those that an error has left over a SIGTERM, and then wait for ever
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch reports readers that are killed as failures
    for reader in multiprocessing.active_children():
        reader.kill()


def read(
    images: ImageSet, batches: list[list[tuple[int, int]]] | Any, config: TrainConfig, seed: int | None = None
) -> Iterator[Tensor]:
    """uint8 images [b, c, h, w] for each list of (index, epoch) in `batches`, in order; augmented if there is a seed.

    Raises:
        LoneError: instead of the `UserError` of an image that cannot be read.
    """
    loader: DataLoader[Tensor] = DataLoader(
        _Reader(images, seed),
        batch_sampler=batches,
        num_workers=config.workers,
        timeout=config.timeout if config.workers else 0,
        worker_init_fn=_ignore_signals,
        pin_memory=torch.cuda.is_available(),
        # without a generator of its own, starting the loader would draw from the ambient one
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except UserError as error:
        # What a reader process raised arrives with that process's traceback, the sentence in its last line. Our own
        # traceback would keep the other readers.
        sentence = str(error).splitlines()[-1].removeprefix("vco.errors.UserError: ") if config.workers else str(error)
        raise LoneError(sentence) from error.with_traceback(None)


def chunks(indices: list[int], size: int) -> list[list[tuple[int, int]]]:
    """Batches of (index, epoch 0) that run once through `indices`."""
    return [[(i, 0) for i in indices[start : start + size]] for start in range(0, len(indices), size)]


def to_float(images: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to uint8 [0, 255], rounding to nearest as JiT's evaluation does; values outside are clipped."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
