"""The codec `my-codec`: what is denoised in the place of images, and how images are made of it again.

The contract is `vco.api.Codec`. Most codecs are trained autoencoders: they read their weights in `load`, and say in
`check` which file is missing. This one is a formula.
"""

import attrs
from attrs.validators import ge, gt
from jaxtyping import Float
from torch import Tensor

from vco.api import Codec, CodecSetting, StreamSpec


class MyCodec(Codec):
    """Pixels with another contrast, to which encoding adds noise finer than a gray level."""

    @attrs.frozen(kw_only=True)
    class Config(Codec.Config):
        """What a user may set, beside the noise scale that all codecs have."""

        contrast: float = attrs.field(default=1.0, validator=gt(0.0))
        """Factor of the pixels, above 0: the larger, the earlier noise is overcome."""
        dither: float = attrs.field(default=0.3, validator=ge(0.0))
        """Standard deviation of the noise that encoding adds to an image, in gray levels of 256, at least 0."""

    def __init__(self, config: Config, setting: CodecSetting) -> None:
        """Cheap: says what stream there will be, for images of `setting.image_shape` = (c, h, w)."""
        super().__init__()
        self.config = config
        self.spec = StreamSpec(shape=setting.image_shape, noise_scale=config.noise_scale)
        self.noise_shape = setting.image_shape if config.dither > 0 else None

    def encode(self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b ..."] | None) -> Float[Tensor, "b ..."]:
        """The stream of images in [-1, 1]; `noise` is standard normal [b, *noise_shape], or None for the likeliest."""
        if noise is not None:
            images = images + self.config.dither * 2 / 255 * noise.to(images.dtype)
        return self.config.contrast * images

    def decode(self, stream: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """The images of a stream. Losses that look at predicted images send gradients through here."""
        return stream / self.config.contrast
