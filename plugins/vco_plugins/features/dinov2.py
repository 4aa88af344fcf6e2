"""DINOv2 through transformers: the encoder of V-Co, RAE and REPA."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs.validators import ge, instance_of
from jaxtyping import Float
from torch import Tensor

from vco_plugins.encoders import Encoder, EncoderConfig, Network, Seen
from vco_plugins.pretrained import Architecture, initial, pretrained, read_config

MODELS = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
KNOWN = {
    f"facebook/dinov2-{registers}{size}": Architecture("dinov2" + "_with_registers" * bool(registers), 14, width, depth)
    for registers in ("", "with-registers-")
    for size, width, depth in (("small", 384, 12), ("base", 768, 12), ("large", 1024, 24), ("giant", 1536, 40))
}


class DINOv2(Encoder):
    """DINOv2 with or without registers, as V-Co and RAE use it (Oquab et al. 2023, Darcet et al. 2023).

    `forward`: bicubic resize, tokens after the final LayerNorm *without* its affine part, so that every
    token has mean 0 and variance 1 over its width; `pooled` is the class token of the same. `perceive`:
    bilinear resize, the stock final norm. Class and register tokens are not among the tokens. With
    --features.norm affine, `forward` is REPA's and ReDi's target.

    Source: RAE (Zheng et al., arXiv 2510.11690) for `forward`; V-Co (arXiv 2603.16792) for both views.
    """

    @attrs.frozen(kw_only=True)
    class Config(EncoderConfig):
        """What a user may set."""

        weights: str = attrs.field(
            default="facebook/dinov2-with-registers-base", validator=instance_of(str), metadata={"location": True}
        )
        """Folder with config.json and model.safetensors, or a hub id in the local Hugging Face cache."""
        resolution: int = attrs.field(default=224, validator=ge(1))
        """Side that images are resized to, in pixels; a multiple of the patch size (14)."""

    name: ClassVar[str] = "dinov2"

    def describe(self, folder: Path | None) -> Architecture:
        return read_config(folder, self.weights, kinds=MODELS, known=KNOWN)

    def read(self, folder: Path) -> Any:
        return pretrained(MODELS[self.architecture.kind], folder)

    def initial(self, folder: Path | None) -> Any:
        return initial(MODELS[self.architecture.kind], folder, self.architecture)

    def parts(self, module: Any) -> Network:
        registers = getattr(module.config, "num_register_tokens", 0)
        return Network(module=module, blocks=module.encoder.layer, norm=module.layernorm, prefix=1 + registers)

    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Seen:
        return Seen(self.module(pixels).pooler_output)
