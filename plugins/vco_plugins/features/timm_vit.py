"""Any plain ViT of timm."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge, instance_of
from jaxtyping import Float
from torch import Tensor

from vco.api import UserError
from vco_plugins.encoders import Encoder, EncoderConfig, Network, Statistics
from vco_plugins.pretrained import Architecture, read_json, readable

PARTS = ("blocks", "norm", "fc_norm", "num_prefix_tokens")  # only timm's plain ViTs have them all


class TimmViT(Encoder):
    """Any plain ViT of timm: DINO, MAE, CLIP, SigLIP, DeiT, EVA, PE, ... (Wightman 2019, timm).

    Pixel statistics are those of the weights' own tag. `forward`: tokens after a LayerNorm without affine part;
    `pooled` is the class token of the same, or the network's own pooling where there is no class token. `perceive`:
    the stock tokens; `pooled` is what the classifier would read. Class, register and distillation tokens are not among
    the tokens. Networks that norm what they pooled have no final norm of the tokens: "affine" is then the same as
    "none". Position tables are resampled for other sizes. Hierarchical networks (Swin, Hiera), convolutional ones and
    those whose class token joins late (CaiT, XCiT) are refused.
    """

    @attrs.frozen(kw_only=True)
    class Config(EncoderConfig):
        """What a user may set."""

        weights: str = attrs.field(
            default="timm/vit_base_patch14_reg4_dinov2.lvd142m", validator=instance_of(str), metadata={"location": True}
        )
        """Name in timm, with or without timm/ (its weights in the local cache), or a folder with a hub repository."""
        resolution: int = attrs.field(default=224, validator=ge(1))
        """Side that images are resized to, in pixels; a multiple of the patch size."""

    name: ClassVar[str] = "timm"
    weight_files: ClassVar[tuple[str, ...]] = ("model.safetensors",)

    @property
    def hub_id(self) -> str:
        import timm

        config: Any = timm.get_pretrained_cfg(self.config.weights.removeprefix("timm/"))
        return (config and config.hf_hub_id) or self.config.weights

    def describe(self, folder: Path | None) -> Architecture:
        import timm

        given = self.config.weights
        if folder is not None:
            model, arguments = read_json(folder / self.config_file, _model)
        else:
            model, arguments = given.removeprefix("timm/").partition(".")[0], {}
        if not timm.is_model(model):
            raise UserError(
                f"{given!r} (from --.weights) is neither a folder of timm's hub format, nor in the local "
                "Hugging Face cache, nor a name in timm (timm.list_pretrained('vit*') lists some); give one of these."
            )
        with readable(folder or Path(given)), torch.device("meta"):  # sizes without memory
            network: Any = timm.create_model(model, **arguments)
        if not all(hasattr(network, part) for part in PARTS):
            raise UserError(f"{model} (from --.weights) is no plain ViT; take a vit_, eva, beit or deit model.")
        return Architecture(model, network.feature_info[-1]["reduction"], network.embed_dim, len(network.blocks))

    def build(self, folder: Path) -> Network:
        import timm

        with readable(folder):  # strict, because the number of classes is left as it was
            module: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=self.config.resolution)
        embedding = getattr(module, "embeds", module)
        return Network(
            module=module,
            blocks=module.blocks,
            norm=module.norm,
            prefix=module.num_prefix_tokens,
            class_token=embedding.cls_token is not None,
        )

    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Float[Tensor, "b e"]:
        network: Any = self.module
        return network.forward_head(network.forward_features(pixels), pre_logits=True)

    def pixels(self, folder: Path) -> Statistics:
        def reader(content: Any) -> Statistics:
            said = content["pretrained_cfg"]
            return Statistics(tuple(said["mean"]), tuple(said["std"]))

        return read_json(folder / self.config_file, reader)


def _model(content: Any) -> tuple[str, dict[str, Any]]:
    return content["architecture"], content.get("model_args") or {}
