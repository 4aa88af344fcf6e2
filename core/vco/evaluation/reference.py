"""What images are held against: a data set, images in files, or the moments of images that are not at hand."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import torch
from accelerate.utils import gather_object
from jaxtyping import Int, UInt8
from torch import Tensor

from vco import content
from vco.api import Data, ImageSet, Moments
from vco.config.settings import RunConfig
from vco.data.reader import chunks, read
from vco.errors import UserError
from vco.evaluation.measure import Measure, Prepared, State
from vco.evaluation.moments import Cache, MomentsFile
from vco.evaluation.stored import StoredImages

LOOKED_AT: Final = 16
"""Images whose pixels are part of the hash of a set, which may know no more of its files than their names."""


class Reference(ABC):
    """Real images, or what is known of them."""

    name: str
    """As part of a sentence."""
    count: int | None
    """How many images; None where nobody has noted it."""
    shape: tuple[int, int, int] | None
    """(c, h, w) of the images; None where nobody has noted it."""
    real: ImageSet | None = None
    """Other images of the same kind: what a perfect generator would make."""
    num_classes: int | None = None
    """Number of classes of these; None where nobody has noted it."""

    @cached_property
    def hash(self) -> str:
        """SHA-256 that tells these images from others."""
        return self.digest()

    @abstractmethod
    def digest(self) -> str:
        """Computes `hash`."""

    def batches(self, measure: Measure) -> Iterator[UInt8[Tensor, "b c h w"]] | None:
        """This process's share of the images; None where they are not at hand."""
        return None

    def moments(self, measure: Measure, number: int) -> Moments | None:
        """Moments of what the encoder of a metric sees in the images, if they are known without looking."""
        return None

    def prepare(self, measure: Measure, cache: Cache | None = None) -> Prepared:
        """Shows the images to all metrics.

        Args:
            measure: the metrics.
            cache: where moments are kept that were computed before.

        Raises:
            UserError: if a metric needs images that are not at hand, or the moments are of another encoder.
        """
        if self.shape is not None and self.shape != measure.image_shape:
            ours, theirs = ("x".join(map(str, shape)) for shape in (measure.image_shape, self.shape))
            raise UserError(f"the images that are scored are {ours}, and those of the {self.name} {theirs}")
        seen: dict[int, State | Moments | None] = {}
        for number, choice in enumerate(measure.choices):
            if not choice.part.component.needs_real:
                seen[number] = None
            elif measure.takes_moments(number):
                known = self.moments(measure, number) or self._remembered(measure, number, cache)
                seen |= {number: known} if known else {}
        if left := [number for number in range(len(measure.choices)) if number not in seen]:
            batches = self.batches(measure)
            if batches is None:
                part = measure.choices[left[0]].part
                raise UserError(
                    f"{part.title} needs real images, and of the {self.name} only the moments are known; leave it out, "
                    "or hold it --against images"
                )
            found = measure.gather(
                batches, len(measure.share(self.count or 0)), "real images", generated=False, of=left
            )
            seen |= found
            for number, state in found.items():
                moments = measure.moments(number, state)
                if cache and moments is not None and measure.accelerator.is_main_process:
                    cache.put(self._key(measure, number), moments)
        order = [seen[number] for number in range(len(measure.choices))]
        return Prepared(name=self.name, hash=self.hash, count=self.count, seen=order)

    def _remembered(self, measure: Measure, number: int, cache: Cache | None) -> Moments | None:
        known = None if cache is None else cache.get(self._key(measure, number))
        # a process that finds nothing, on another machine, would read images and wait for those that do not
        return known if all(gather_object([known is not None])) else None

    def _key(self, measure: Measure, number: int) -> dict[str, Any]:
        return {"images": self.hash, "shape": list(measure.image_shape), "encoder": measure.encoder(number)}


class DataReference(Reference):
    """The images of a data set, all of them."""

    def __init__(
        self, data: Data, images: ImageSet, name: str, config: RunConfig, real: ImageSet | None = None
    ) -> None:
        """Remembers one set of a data set, and the other one in `real`."""
        self.images = images
        self.name = name
        self.count = len(images)
        self.shape = data.image_shape
        self.num_classes = data.num_classes
        self.config = config
        self.real = real

    def digest(self) -> str:
        """SHA-256 of what identifies the set, and of some of its pixels."""
        return set_hash(self.images)

    def batches(self, measure: Measure) -> Iterator[UInt8[Tensor, "b c h w"]]:
        """This process's share of the images."""
        return read_some(self.images, torch.arange(len(self.images)), measure, self.config)


class StoredReference(Reference):
    """Images in files, and their moments too where a file has both (ADM's): these are then of more images."""

    def __init__(self, stored: StoredImages, moments: MomentsFile | None, size: int) -> None:
        """Remembers the images; `size` is the number of a batch."""
        self.stored = stored
        self.file = moments
        self.size = size
        self.name = f"images in {stored.path.name}"
        self.count = stored.count
        self.shape = stored.shape

    def digest(self) -> str:
        """SHA-256 of the file, or of all files in the folder."""
        return self.file.hash if self.file else self.stored.digest()

    def batches(self, measure: Measure) -> Iterator[UInt8[Tensor, "b c h w"]]:
        """This process's share of the images."""
        return self.stored.batches(measure.share(self.stored.count), self.size)

    def moments(self, measure: Measure, number: int) -> Moments | None:
        """The moments that the file has beside the images."""
        return None if self.file is None else _of_file(self.file, measure, number)


class MomentsReference(Reference):
    """The moments of images that are not at hand."""

    shape = None

    def __init__(self, file: MomentsFile) -> None:
        """Remembers the file."""
        self.file = file
        self.name = file.name
        self.count = file.moments.count

    def digest(self) -> str:
        """SHA-256 of the images, if the file says it; else of the file."""
        return self.file.about.get("images") or self.file.hash

    def moments(self, measure: Measure, number: int) -> Moments | None:
        """The moments in the file; raises `UserError` where they are of another encoder."""
        return _of_file(self.file, measure, number)


def _of_file(file: MomentsFile, measure: Measure, number: int) -> Moments:
    file.require(measure.encoder(number), measure.image_shape)
    return file.moments


def read_some(
    images: ImageSet, indices: Int[Tensor, " n"], measure: Measure, config: RunConfig
) -> Iterator[UInt8[Tensor, "b c h w"]]:
    """This process's share of some images of a set, in batches of the size for sampling."""
    mine: Sequence[int] = indices[list(measure.share(len(indices)))].tolist()
    for batch in read(images, chunks(mine, config.sample.batch_size), config.train):
        yield batch.images


def set_hash(images: ImageSet) -> str:
    """SHA-256 of what identifies a set, and of some of its pixels: files may keep their names and change."""
    digest = hashlib.sha256(content.of_images(images).encode())
    for index in torch.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).round().long().tolist():
        digest.update(images.image(index, None).contiguous().numpy().tobytes())
    return digest.hexdigest()
