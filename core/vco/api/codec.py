"""The contract of codecs: from images to the stream that is denoised, and back."""

from abc import abstractmethod

import attrs
from attrs.validators import gt
from jaxtyping import Float
from torch import Tensor, nn

from vco.api.component import Component
from vco.api.streams import StreamSpec


@attrs.frozen(kw_only=True)
class CodecSetting:
    """What a codec is told of the run."""

    image_shape: tuple[int, int, int]
    """(c, h, w) of the images."""


class Codec(Component, nn.Module):
    """A frozen map from images to the image stream (pixels: the identity; a VAE: its latents) and back.

    Constructed as `Class(config, CodecSetting)`: cheap, sets `spec`, and raises `UserError` for images that it cannot
    encode. It is not trained, not averaged and not saved; `decode` passes gradients, because losses look at decoded
    predictions.
    """

    @attrs.frozen(kw_only=True)
    class Config(Component.Config):
        """What a user may set about any codec."""

        noise_scale: float = attrs.field(default=1.0, validator=gt(0.0))
        """Standard deviation of the image stream's noise at t = 0, above 0 (JiT: 2.0 for images of 512 pixels)."""

    spec: StreamSpec
    """Shape (c, h, w) of the image stream, with the noise scale of the config; no grid, as backbones make tokens."""
    noise_shape: tuple[int, ...] | None = None
    """Shape of the random numbers that encoding one image takes; None where encoding draws nothing."""

    def check(self) -> None:
        """Raises `UserError` if weights are missing: what was looked for, how to get it, options as `--.weights`."""

    def load(self) -> None:
        """Builds the network and reads its weights, once, before the first call; raises as `check` does."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b ..."] | None) -> Float[Tensor, "b ..."]:
        """The image stream of images in [-1, 1].

        Args:
            images: the images.
            noise: standard normal numbers `[b, *noise_shape]`, or None for the stream's most likely value. The core
                draws them from (seed, epoch, image index), so that a resumed run sees the same stream.
        """

    @abstractmethod
    def decode(self, stream: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Images of an image stream, nominally in [-1, 1]; gradients pass."""
