"""What the frozen encoders say of a batch of images, in the views that adapters and losses read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vco.api.features import Features, FeatureSource

EncoderPrecision = Literal["auto", "fp32", "bf16"]
"""Arithmetic of the encoders; "auto" is that of what surrounds them."""


class Views(Mapping[str, Features]):
    """Features of a batch by encoder and view, each computed when it is first asked for.

    As a mapping, encoder name -> the feature stream's view of the clean images, without gradient: what adapters read.
    """

    def __init__(
        self,
        sources: Mapping[str, FeatureSource],
        images: Float[Tensor, "b c h w"],
        precision: EncoderPrecision = "auto",
    ) -> None:
        """Computes nothing yet.

        Args:
            sources: the frozen encoders by name, in the order of --features.
            images: the clean images, in [-1, 1].
            precision: what the encoders compute in (--train.encoder-precision); images and features are float32.
        """
        self.sources, self.images, self.precision = sources, images, precision
        self.memory: dict[tuple[str, str], Features] = {}
        """(view, encoder name) -> what was computed; the views are "features", "real" and "generated"."""

    def __getitem__(self, name: str) -> Features:
        """The feature stream's view of the clean images, without gradient."""
        if ("features", name) not in self.memory:
            with torch.no_grad(), self._arithmetic():
                self.memory["features", name] = self.sources[name](self.images)
        return self.memory["features", name]

    def __iter__(self) -> Iterator[str]:
        """The encoders' names."""
        return iter(self.sources)

    def __len__(self) -> int:
        """The number of encoders."""
        return len(self.sources)

    def real(self, name: str) -> Features:
        """The perceptual view of the clean images, without gradient; the stream's view may have brought it along."""
        source = self.sources[name]
        if type(source).perceive is FeatureSource.perceive:  # it has one view
            return self[name]
        if ("real", name) not in self.memory:
            seen = self.memory.get(("features", name))
            found = None if seen is None else seen.perceived
            with torch.no_grad(), self._arithmetic():
                self.memory["real", name] = source.perceive(self.images) if found is None else found
        return self.memory["real", name]

    def generated(self, name: str, predicted: Callable[[], Float[Tensor, "b c h w"]]) -> Features:
        """The perceptual view of the predicted images; gradients pass.

        Args:
            name: the encoder's.
            predicted: gives these images, the same ones at every call; only asked if the view is not there yet, as a
                codec has to decode them.
        """
        if ("generated", name) not in self.memory:
            images = predicted()
            with self._arithmetic():
                self.memory["generated", name] = self.sources[name].perceive(images)
        return self.memory["generated", name]

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self.precision == "auto":
            return nullcontext()
        return torch.autocast(self.images.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")
