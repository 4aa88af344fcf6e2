"""Training images whose latents are stored: the images themselves are read only where an encoder needs them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vco import content
from vco.api import MOMENTS, Codec, ImageSet
from vco.errors import UserError
from vco.run import Run
from vco.storage.latents import Identity, LatentStore


class StoredLatents(ImageSet):
    """A training set with what a codec makes of each image; what is not read of an image is black.

    Images are not augmented but by mirroring, which half of the visits are where the store has mirrored images: the
    draw is that of data sets that mirror.
    """

    def __init__(self, images: ImageSet, store: LatentStore, *, reads_images: bool) -> None:
        self.images, self.store, self.reads_images = images, store, reads_images
        self.labels, self.on_bad, self.blocks = images.labels, images.on_bad, images.blocks
        self.shape = store.identity.image_shape

    def image(self, index: int, generator: torch.Generator | None) -> Tensor:
        """The image, black if it is not read."""
        return self.visit(index, generator)[0]

    def extras(self, index: int) -> Mapping[str, Tensor]:
        """What travels with it, the stored moments among that."""
        return {**self.images.extras(index), MOMENTS: self.store.moments(index)}

    def visit(self, index: int, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Both, of the mirrored image in half of the visits."""
        flipped = self.store.identity.flips and _tossed(generator)
        if self.reads_images:
            image = self.images.image(index, None)
            image = image.flip(-1) if flipped else image
        else:
            image = torch.zeros((), dtype=torch.uint8).expand(self.shape)
        return image, {**self.images.extras(index), MOMENTS: self.store.moments(index, flipped)}

    def identity(self) -> Iterator[bytes]:
        """That of the images."""
        return self.images.identity()


def _tossed(generator: torch.Generator | None) -> bool:
    """The draw by which data sets mirror an image."""
    return generator is not None and bool(torch.rand((), generator=generator) < 0.5)


def identity_of(codec: Codec, name: str, images: ImageSet, image_shape: tuple[int, int, int], flips: bool) -> Identity:
    """What a store is made of and by.

    Args:
        codec: the codec with its weights.
        name: what it is called.
        images: the training images.
        image_shape: (c, h, w) of the images.
        flips: whether mirrored images are stored too.

    Raises:
        UserError: if the codec makes nothing of images that can be stored.
    """
    if codec.moments_shape is None:
        raise UserError(f"codec {name} makes nothing of images that can be stored; choose another, such as --codec vae")
    return Identity(
        codec=name,
        weights=content.of_weights(codec),
        data=content.of_images(images),
        images=len(images),
        image_shape=image_shape,
        moments_shape=codec.moments_shape,
        flips=flips,
    )


def training_images(run: Run, images: ImageSet) -> ImageSet:
    """The training set with stored latents where --train.latents names a store, and as it is otherwise.

    Raises:
        UserError: if the store was made of other images, by another codec, or lacks the mirrored images that the data
            set would show.
    """
    folder = run.config.train.latents
    if not folder:
        return images
    store = LatentStore(Path(folder))
    codec, name = run.objective.codec, run.config.part("codec").name
    store.require_same(identity_of(codec, name, images, run.facts.image_shape, store.identity.flips))
    if getattr(run.config.part("data").config, "flip", False) != store.identity.flips:
        has, option = ("has", "true") if store.identity.flips else ("lacks", "false")
        raise UserError(f"--train.latents {folder}: the store {has} mirrored images; set --data.flip {option}")
    return StoredLatents(images, store, reads_images=bool(run.objective.sources))
