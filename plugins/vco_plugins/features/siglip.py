"""SigLIP through transformers: the vision tower."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs.validators import ge, instance_of
from jaxtyping import Float
from torch import Tensor

from vco_plugins.encoders import HALF, Encoder, EncoderConfig, Network, Seen, Statistics
from vco_plugins.pretrained import Architecture, initial, pretrained, read_config

KINDS = ("siglip", "siglip_vision_model")
KNOWN = {
    f"google/siglip-{name}": Architecture("siglip", patch, width, depth)
    for names, patch, width, depth in (
        (("base-patch16-224", "base-patch16-256", "base-patch16-384", "base-patch16-512"), 16, 768, 12),
        (("large-patch16-256", "large-patch16-384"), 16, 1024, 24),
        (("so400m-patch14-224", "so400m-patch14-384"), 14, 1152, 27),
    )
    for name in names
}
# what the family's config files leave out
DEFAULTS = {"patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12}


class SigLIP(Encoder):
    """SigLIP's vision tower (Zhai et al. 2023, arXiv 2303.15343); pixels are scaled to [-1, 1], as it was trained.

    There is no class token: `pooled` is the attention-pooled vector. `forward`: tokens after the final LayerNorm
    without its affine part; `perceive`: the stock final norm. Position tables are interpolated for other sizes.
    The published so400m-patch14-384 reads 378 of its 384 pixels; here say --features.resolution 378.
    """

    @attrs.frozen(kw_only=True)
    class Config(EncoderConfig):
        """What a user may set."""

        weights: str = attrs.field(
            default="google/siglip-base-patch16-256", validator=instance_of(str), metadata={"location": True}
        )
        """Folder with config.json and model.safetensors, or a hub id in the local Hugging Face cache."""
        resolution: int = attrs.field(default=256, validator=ge(1))
        """Side that images are resized to, in pixels; a multiple of the patch size (16, so400m-patch14: 14)."""

    name: ClassVar[str] = "siglip"
    statistics: ClassVar[Statistics] = HALF

    def describe(self, folder: Path | None) -> Architecture:
        return read_config(folder, self.weights, kinds=KINDS, known=KNOWN, defaults=DEFAULTS)

    def read(self, folder: Path) -> Any:
        return pretrained("SiglipVisionModel", folder)

    def initial(self, folder: Path | None) -> Any:
        return initial("SiglipVisionModel", folder, self.architecture)

    def parts(self, module: Any) -> Network:
        return Network(
            module=module, blocks=module.encoder.layers, norm=module.post_layernorm, prefix=0, class_token=False
        )

    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Seen:
        return Seen(self.module(pixels, interpolate_pos_encoding=True).pooler_output)
