"""What a process computes with in each step: its rows of the global batch, read and sent to the device."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from vco.api import ImageSet
from vco.data.order import Order
from vco.data.reader import Batch, Key, read, to_float
from vco.objective import Objective
from vco.randomness import RowGenerator, noise, seed_of
from vco.run import Run
from vco.step_inputs import Inputs


class Batches:
    """The batches of a run: a place in their endless sequence names the images, and all that is drawn for them."""

    def __init__(self, run: Run, images: ImageSet, accelerator: Accelerator, listed: Path) -> None:
        """Begins nothing yet.

        Args:
            run: settings, streams and codec.
            images: the training set.
            accelerator: the processes that share a batch.
            listed: file that gets a line for every image that cannot be read.
        """
        self.train, self.seed = run.config.train, run.config.seed
        self.objective: Objective = run.objective
        self.images = images
        self.accelerator = accelerator
        self.listed = listed
        self.known = set(listed.read_text(errors="replace").splitlines()) if listed.is_file() else set[str]()
        self.order = Order(
            images.labels,
            seed=self.seed,
            batch_size=self.train.batch_size,
            samples_per_class=self.train.samples_per_class,
            blocks=images.blocks,
        )
        self.shapes = {stream: spec.shape for stream, spec in self.objective.specs.items()}

    def labels(self, place: int) -> Int[Tensor, " b"]:
        """Classes of the whole global batch at a place."""
        return self.order.labels[self.order.batch(place)[0]]

    def rows(self, part: int) -> slice:
        """This process's rows of the global batch in one accumulation step."""
        size = self.train.batch_size // (self.accelerator.num_processes * self.train.accumulation)
        start = (part * self.accelerator.num_processes + self.accelerator.process_index) * size
        return slice(start, start + size)

    @property
    def split_groups(self) -> bool:
        """Whether samples of one class group are on several processes."""
        rows = self.rows(0)
        return bool(self.train.samples_per_class and (rows.stop - rows.start) % self.train.samples_per_class)

    def read(self, start: int, stop: int) -> Iterator[Batch]:
        """This process's images for each part of each batch from one place to another."""
        for batch in read(self.images, self._shares(start, stop), self.train, self.seed):
            self._list(batch.faults)
            yield batch

    def inputs(self, batch: Batch, part: int, place: int) -> Inputs:
        """A batch on the device, with the random numbers of its rows."""
        rows = self.rows(part)
        slots = [place * self.train.batch_size + row for row in range(rows.start, rows.stop)]
        device = self.accelerator.device
        return Inputs(
            images=to_float(self.send(batch.images)),
            labels=self.send(batch.labels),
            noise=noise(self.shapes, slots, self.seed, "noise", device=device),
            generator=RowGenerator((self.seed, "draws"), slots, device),
            encoding_noise=self._encoding_noise(batch.keys),
            extras={name: self.send(value) for name, value in batch.extras.items()},
        )

    def send(self, tensor: Tensor) -> Tensor:
        """A tensor on the device, without waiting for it: only from pinned memory is nobody kept waiting.

        What carries a gradient is not pinned, as that would cut it off.
        """
        if self.accelerator.device.type == "cuda" and tensor.device.type == "cpu" and not tensor.requires_grad:
            tensor = tensor.pin_memory()
        return tensor.to(self.accelerator.device, non_blocking=True)

    def _shares(self, start: int, stop: int) -> Iterator[list[Key]]:
        """What to read for each part of each batch."""
        for place in range(start, stop):
            index, epoch = self.order.batch(place)
            for part in range(self.train.accumulation):
                rows = self.rows(part)
                # a data set that draws from the ambient generator, as it should not, is repeatable without readers
                torch.manual_seed(seed_of(self.seed, "reading", place, rows.start))
                yield list(zip(index[rows].tolist(), epoch[rows].tolist(), strict=True))

    def _encoding_noise(self, keys: Sequence[Key]) -> Tensor | None:
        """What the codec draws with: a function of (seed, epoch, index), as augmentation is."""
        shape = self.objective.codec.noise_shape
        if shape is None:
            return None
        device = self.accelerator.device
        rows = [noise({"": shape}, [index], self.seed, "posterior", epoch, device=device)[""] for index, epoch in keys]
        return torch.cat(rows)

    def _list(self, faults: Sequence[str]) -> None:
        """Adds images that cannot be read to the list in the run folder, each once."""
        for sentence in faults:
            if sentence not in self.known:
                self.known.add(sentence)
                with self.listed.open("a") as file:
                    file.write(sentence + "\n")
                tqdm.write(f"{sentence} Another one of its class is read in its place ({len(self.known)} so far).")
