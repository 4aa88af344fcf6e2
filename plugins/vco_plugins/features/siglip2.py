"""SigLIP 2 through transformers: the vision tower, of fixed resolution or NaFlex."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge, instance_of
from jaxtyping import Float
from torch import Tensor

from vco_plugins.encoders import HALF, Encoder, EncoderConfig, Network, Seen, Statistics
from vco_plugins.pretrained import Architecture, initial, pretrained, read_config

FIXED, NAFLEX = "SiglipVisionModel", "Siglip2VisionModel"
MODELS = {"siglip": FIXED, "siglip_vision_model": FIXED, "siglip2": NAFLEX, "siglip2_vision_model": NAFLEX}
KNOWN = {
    f"google/siglip2-{name}": Architecture("siglip2" if name.endswith("naflex") else "siglip", patch, width, depth)
    for names, patch, width, depth in (
        (("base-patch16-224", "base-patch16-256", "base-patch16-384", "base-patch16-512"), 16, 768, 12),
        (("base-patch16-naflex",), 16, 768, 12),
        (("base-patch32-256",), 32, 768, 12),
        (("large-patch16-256", "large-patch16-384", "large-patch16-512"), 16, 1024, 24),
        (("so400m-patch14-224", "so400m-patch14-384"), 14, 1152, 27),
        (("so400m-patch16-256", "so400m-patch16-384", "so400m-patch16-512", "so400m-patch16-naflex"), 16, 1152, 27),
        (("giant-opt-patch16-256", "giant-opt-patch16-384"), 16, 1536, 40),
    )
    for name in names
}
# what the family's config files leave out
DEFAULTS = {"patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12}


class SigLIP2(Encoder):
    """SigLIP 2's vision tower (Tschannen et al. 2025, arXiv 2502.14786), as RAE uses it; fixed-size and NaFlex files.

    Pixels are scaled to [-1, 1]. There is no class token: `pooled` is the attention-pooled vector. `forward`: tokens
    after the final LayerNorm without its affine part (RAE); --features.norm affine is iREPA's target, but for iREPA's
    ImageNet statistics, which the model was not trained with. `perceive`: the stock final norm. Position tables are
    interpolated for other sizes.
    """

    @attrs.frozen(kw_only=True)
    class Config(EncoderConfig):
        """What a user may set."""

        weights: str = attrs.field(
            default="google/siglip2-base-patch16-256", validator=instance_of(str), metadata={"location": True}
        )
        """Folder with config.json and model.safetensors, or a hub id in the local Hugging Face cache."""
        resolution: int = attrs.field(default=256, validator=ge(1))
        """Side that images are resized to, in pixels; a multiple of the patch size (16; 14 and 32 exist)."""

    name: ClassVar[str] = "siglip2"
    statistics: ClassVar[Statistics] = HALF

    def describe(self, folder: Path | None) -> Architecture:
        return read_config(folder, self.weights, kinds=MODELS, known=KNOWN, defaults=DEFAULTS)

    def read(self, folder: Path) -> Any:
        return pretrained(MODELS[self.architecture.kind], folder)

    def initial(self, folder: Path | None) -> Any:
        return initial(MODELS[self.architecture.kind], folder, self.architecture)

    def parts(self, module: Any) -> Network:
        return Network(
            module=module, blocks=module.encoder.layers, norm=module.post_layernorm, prefix=0, class_token=False
        )

    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Seen:
        if MODELS[self.architecture.kind] == FIXED:
            return Seen(self.module(pixels, interpolate_pos_encoding=True).pooler_output)
        count, patch = len(pixels), self.architecture.patch
        # each patch is flattened as (row, column, channel)
        split = pixels.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        patches = split.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
        shapes = torch.tensor([self.spec.grid]).expand(count, -1)  # on the CPU, where the network reads it item by item
        return Seen(self.module(patches, pixel_attention_mask=mask, spatial_shapes=shapes).pooler_output)
