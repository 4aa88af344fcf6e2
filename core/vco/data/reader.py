"""Reading images: in this process or in reader processes, in the order that is asked for."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from vco.api import ImageSet
from vco.config.settings import TrainConfig
from vco.data.processes import LOST, deaths_noticed, forget_death, ignore_signals, remembered
from vco.errors import ReaderLostError, SingleProcessError, UserError
from vco.randomness import generator

TRIED: Final = 20
"""Images of the same class that are tried in the place of one that cannot be read."""
PATIENCE: Final = 0.9
"""Share of --train.timeout after which a reader is given up: before the processes that wait for this one do that."""
NAMED: Final = 8
"""Images that a message names by their numbers, at most."""
Key = tuple[int, int]
"""Index of an image, and the epoch (its how-manyth visit) that its augmentation belongs to."""


@attrs.frozen(kw_only=True)
class Batch:
    """What was read for a list of keys."""

    keys: Sequence[Key]
    images: Tensor
    """uint8 [b, c, h, w]."""
    labels: Tensor
    """Classes of these images, int64 [b]."""
    extras: Mapping[str, Tensor]
    """What travels with the images (`ImageSet.extras`), [b, ...] each."""
    faults: Sequence[str] = ()
    """A sentence for each image that could not be read, where another one was read in its place."""


@attrs.frozen
class _Images(Dataset[tuple[Tensor, Mapping[str, Tensor], str]]):
    """Reads image (index, epoch); its augmentation is a function of (seed, epoch, index)."""

    images: ImageSet
    seed: int | None

    def __getitem__(self, key: Key) -> tuple[Tensor, Mapping[str, Tensor], str]:
        index, epoch = key
        try:
            return *self._read(index, epoch), ""
        except UserError as error:
            if self.images.on_bad == "stop":
                raise
            return *self._next_of_class(index, epoch, error), str(error)

    def _read(self, index: int, epoch: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        draws = None if self.seed is None else generator(self.seed, "augment", epoch, index)
        return self.images.visit(index, draws)

    def _next_of_class(self, index: int, epoch: int, error: UserError) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The next image of the same class that can be read: the same one in every process."""
        members: list[int] = (self.images.labels == self.images.labels[index]).nonzero()[:, 0].tolist()
        place = members.index(index)
        for other in (members[place + 1 :] + members[:place])[:TRIED]:
            with suppress(UserError):
                return self._read(other, epoch)
        raise UserError(f"{error} (and none of the {TRIED} images after it in its class can be read in its place)")


def _collated(parts: Sequence[tuple[Tensor, Mapping[str, Tensor], str]]) -> tuple[Tensor, Any, list[str]]:
    """A batch of images and what travels with them, and the sentences about those that could not be read."""
    images, extras, faults = zip(*parts, strict=True)
    return torch.stack(images), default_collate(list(extras)), [fault for fault in faults if fault]


def read(
    images: ImageSet, batches: Iterable[Sequence[Key]], config: TrainConfig, seed: int | None = None
) -> Iterator[Batch]:
    """Reads a batch for each list of keys, in order; images are augmented if there is a seed.

    Raises:
        SingleProcessError: instead of the `UserError` of an image that cannot be read.
        ReaderLostError: if a reader process is killed, or gives no answer.
    """
    to_read, to_tell = itertools.tee(batches)
    loader: DataLoader[Any] = DataLoader(
        _Images(images, seed),
        batch_sampler=to_read,  # pyright: ignore[reportArgumentType] (any iterable will do)
        num_workers=config.workers,
        timeout=PATIENCE * config.timeout if config.workers else 0,
        worker_init_fn=ignore_signals,
        collate_fn=_collated,
        pin_memory=torch.cuda.is_available(),
        # without a generator of its own, starting the loader would draw from the ambient one
        generator=torch.Generator(),
    )
    keys: Sequence[Key] = ()
    try:
        with remembered():
            found = iter(loader)
        for keys in to_tell:
            with deaths_noticed():
                pixels, extras, faults = next(found)
            labels = images.labels[torch.tensor([index for index, _ in keys])]
            yield Batch(keys=keys, images=pixels, labels=labels, extras=extras, faults=faults)
    except UserError as error:
        # What a reader process raised arrives with that process's traceback, the sentence in its last line. Our own
        # traceback would keep the other readers.
        sentence = str(error).splitlines()[-1].removeprefix("vco.errors.UserError: ") if config.workers else str(error)
        raise SingleProcessError(sentence) from error.with_traceback(None)
    except RuntimeError as error:
        if not str(error).startswith(LOST):
            raise
        raise ReaderLostError(_lost(error, keys, config)) from error.with_traceback(None)
    except (OSError, EOFError) as error:
        if not config.workers or str(error).startswith("Caught "):  # an error of the images themselves
            raise
        # a reader was killed after it had told of a batch and before it had handed it over
        forget_death()
        raise ReaderLostError(_lost(error, keys, config)) from error.with_traceback(None)


def _lost(error: Exception, keys: Sequence[Key], config: TrainConfig) -> str:
    """A sentence about a reader that was killed or hangs, with the images that were wanted of it."""
    numbers = ", ".join(str(index) for index, _ in keys[:NAMED]) + ", ..." * (len(keys) > NAMED)
    after = f"no answer for {PATIENCE * config.timeout:.0f} s, --train.timeout {config.timeout}"
    what = f"hangs ({after})" if "timed out" in str(error) else f"was killed ({' '.join(str(error).split())})"
    return (
        f"training stopped: a process that reads images {what}; of the training set the images {numbers} were wanted. "
        "The same command goes on; if memory was short, lower --train.workers"
    )


def chunks(indices: Sequence[int], size: int) -> list[list[Key]]:
    """Batches of (index, epoch 0) that run once through `indices`."""
    return [[(i, 0) for i in indices[start : start + size]] for start in range(0, len(indices), size)]


def to_float(images: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to uint8 [0, 255], rounding to nearest as JiT's evaluation does; values outside are clipped."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
