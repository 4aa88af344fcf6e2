"""The images themselves as the stream that is denoised."""

from jaxtyping import Float
from torch import Tensor

from vco.api import Codec, CodecSetting, StreamSpec


class Pixels(Codec):
    """The pixels in [-1, 1], unchanged."""

    def __init__(self, config: Codec.Config, setting: CodecSetting) -> None:
        super().__init__()
        self.config = config
        self.spec = StreamSpec(shape=setting.image_shape, noise_scale=config.noise_scale)

    def encode(self, images: Float[Tensor, "b c h w"], noise: Tensor | None) -> Float[Tensor, "b c h w"]:
        return images

    def decode(self, stream: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return stream
