"""MAE through transformers: the encoder half, which sees every patch."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge, instance_of
from jaxtyping import Float
from torch import Tensor

from vco_plugins.encoders import Encoder, EncoderConfig, Network, Seen
from vco_plugins.pretrained import SAFETENSORS, Architecture, initial, pretrained, read_config

MODELS = {"vit_mae": "ViTMAEModel"}
KNOWN = {
    f"facebook/vit-mae-{size}": Architecture("vit_mae", patch, width, depth)
    for size, patch, width, depth in (("base", 16, 768, 12), ("large", 16, 1024, 24), ("huge", 14, 1280, 32))
}


class MAE(Encoder):
    """MAE's encoder without masking (He et al. 2022, arXiv 2111.06377), as RAE and REPA use it.

    The library shuffles the patches even where it masks none; here they are told to stay in order. `forward`: tokens
    after the final LayerNorm without its affine part (RAE); --features.norm none is REPA's target. `perceive`: the
    stock final norm. The class token is not among the tokens. Position tables are interpolated for other sizes.
    """

    @attrs.frozen(kw_only=True)
    class Config(EncoderConfig):
        """What a user may set."""

        weights: str = attrs.field(
            default="facebook/vit-mae-base", validator=instance_of(str), metadata={"location": True}
        )
        """Folder with config.json and model.safetensors or pytorch_model.bin, or a hub id in the local cache."""
        resolution: int = attrs.field(default=256, validator=ge(1))
        """Side that images are resized to, in pixels; a multiple of the patch size (16, huge: 14)."""

    name: ClassVar[str] = "mae"
    weight_files: ClassVar[tuple[str, ...]] = (*SAFETENSORS, "pytorch_model.bin")  # older than safetensors

    def describe(self, folder: Path | None) -> Architecture:
        return read_config(folder, self.weights, kinds=MODELS, known=KNOWN)

    def read(self, folder: Path) -> Any:
        return pretrained(MODELS[self.architecture.kind], folder, mask_ratio=0.0)

    def initial(self, folder: Path | None) -> Any:
        return initial(MODELS[self.architecture.kind], folder, self.architecture, mask_ratio=0.0)

    def parts(self, module: Any) -> Network:
        return Network(module=module, blocks=module.layers, norm=module.layernorm, prefix=1)

    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Seen:
        # patches are sorted by this noise: rising numbers (exact in float32) keep them row-major
        order = torch.arange(self.spec.tokens[0], dtype=torch.float32, device=pixels.device).expand(len(pixels), -1)
        self.module(pixels, noise=order, interpolate_pos_encoding=True)
        return Seen(None)
