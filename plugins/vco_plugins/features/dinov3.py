"""DINOv3 (ViT) through transformers."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs.validators import ge, instance_of
from jaxtyping import Float
from torch import Tensor

from vco_plugins.encoders import Encoder, EncoderConfig, Network, Resize, Seen
from vco_plugins.pretrained import Architecture, initial, pretrained, read_config

MODELS = {"dinov3_vit": "DINOv3ViTModel"}
KNOWN = {
    f"facebook/dinov3-vit{size}-pretrain-lvd1689m": Architecture("dinov3_vit", 16, width, depth)
    for size, width, depth in (
        ("s16", 384, 12),
        ("s16plus", 384, 12),
        ("b16", 768, 12),
        ("l16", 1024, 24),
        ("h16plus", 1280, 32),
        ("7b16", 4096, 40),
    )
}


class DINOv3(Encoder):
    """DINOv3's ViTs, S to 7B (Siméoni et al. 2025, arXiv 2508.10104).

    Both views resize bilinearly with antialiasing, as the model's own processor and iREPA do. `forward`: tokens after
    the final LayerNorm without its affine part (--features.norm affine: iREPA's target); `perceive`: the stock final
    norm. Class and register tokens are not among the tokens. Rotary positions: any multiple of the patch size works.
    The weights are gated: accept the DINOv3 licence on the hub first.
    """

    @attrs.frozen(kw_only=True)
    class Config(EncoderConfig):
        """What a user may set."""

        weights: str = attrs.field(
            default="facebook/dinov3-vitb16-pretrain-lvd1689m", validator=instance_of(str), metadata={"location": True}
        )
        """Folder with config.json and model.safetensors, or a hub id in the local Hugging Face cache."""
        resolution: int = attrs.field(default=256, validator=ge(1))
        """Side that images are resized to, in pixels; a multiple of the patch size (16)."""

    name: ClassVar[str] = "dinov3"
    stream_resize: ClassVar[Resize] = Resize("bilinear", antialias=True)
    loss_resize: ClassVar[Resize] = stream_resize

    def describe(self, folder: Path | None) -> Architecture:
        return read_config(folder, self.weights, kinds=MODELS, known=KNOWN)

    def read(self, folder: Path) -> Any:
        return pretrained(MODELS[self.architecture.kind], folder)

    def initial(self, folder: Path | None) -> Any:
        registers = {} if folder else {"num_register_tokens": 4}
        return initial(MODELS[self.architecture.kind], folder, self.architecture, **registers)

    def parts(self, module: Any) -> Network:
        prefix = 1 + module.config.num_register_tokens
        return Network(module=module, blocks=module.model.layer, norm=module.norm, prefix=prefix)

    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Seen:
        return Seen(self.module(pixels).pooler_output)
