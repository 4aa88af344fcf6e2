"""The contract of codecs: from images to the stream that is denoised, and back."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

import attrs
from attrs.validators import gt
from jaxtyping import Float
from torch import Tensor, nn

from vco.api.component import Component
from vco.api.streams import StreamSpec
from vco.errors import UserError

MOMENTS: Final = "moments"
"""Name in `ImageSet.extras` of what a codec makes of an image (`Codec.posterior`), where that was stored."""


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
    moments_shape: tuple[int, ...] | None = None
    """Shape of what `posterior` makes of an image, for codecs whose streams can be stored; None where they cannot."""

    def check(self) -> None:
        """Raises `UserError` if weights are missing: what was looked for, how to get it, options as `--.weights`."""

    def load(self) -> None:
        """Builds the network and reads its weights, once, before the first call; raises as `check` does."""

    def sketch(self) -> None:
        """Builds the network like `load`, to count what it takes (`FeatureSource.sketch`). Default: `load`."""
        self.load()

    def block_modules(self) -> Sequence[nn.Module]:
        """The modules that do most of its work, once it is loaded: usually one for each block, none inside another.

        The core compiles them (--train.compile) in training steps and where whole batches are sampled. Default: none.
        """
        return ()

    @abstractmethod
    def encode(self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b ..."] | None) -> Float[Tensor, "b ..."]:
        """The image stream of images in [-1, 1].

        Args:
            images: the images.
            noise: standard normal numbers `[b, *noise_shape]`, or None for the stream's most likely value. The core
                draws them from (seed, epoch, image index), so that a resumed run sees the same stream.
        """

    def posterior(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """All that is costly in encoding images, float32 `[b, *moments_shape]`, to be stored once (`vco latents`).

        For every codec with `moments_shape`, `encode(images, noise)` is `draw(posterior(images), noise)`.
        """
        raise UserError(f"the codec {type(self).__name__} makes nothing of images that can be stored")

    def draw(self, moments: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."] | None) -> Float[Tensor, "b ..."]:
        """The image stream of images whose `posterior` is stored; `noise` as in `encode`."""
        raise UserError(f"the codec {type(self).__name__} makes nothing of images that can be stored")

    @abstractmethod
    def decode(self, stream: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Images of an image stream, nominally in [-1, 1]; gradients pass."""
