"""Any plain ViT or ConvNet of timm."""

from typing import ClassVar

import attrs
from attrs.validators import instance_of

from vco_plugins.timm_networks import TimmConfig, TimmEncoder


class TimmViT(TimmEncoder):
    """Any plain ViT of timm: DINO, MAE, CLIP, SigLIP, DeiT, EVA, PE, ... or any ConvNet (Wightman 2019, timm).

    Pixel statistics are those of the weights' own tag. `forward`: tokens after a LayerNorm without affine part;
    `pooled` is the class token of the same, or the network's own pooling where there is no class token. `perceive`:
    the stock tokens; `pooled` is what the classifier would read. Class, register and distillation tokens are not among
    the tokens. Networks that norm what they pooled have no final norm of the tokens: "affine" is then the same as
    "none". Position tables are resampled for other sizes. Tokens of a ConvNet are the places of the map after its last
    stage, or after the one that --features.layers names. Hierarchical transformers (Swin, Hiera) and those whose class
    token joins late (CaiT, XCiT) are refused. `vco train-encoder` trains such networks on images of one's own.
    """

    recipe: ClassVar[str] = "vco_plugins.recipes.timm_network:TimmRecipe"

    @attrs.frozen(kw_only=True)
    class Config(TimmConfig):
        """What a user may set."""

        weights: str = attrs.field(
            default="timm/vit_base_patch14_reg4_dinov2.lvd142m", validator=instance_of(str), metadata={"location": True}
        )
        """Name in timm, with or without timm/ (its weights in the local cache), or a folder with a hub repository, as
        `vco train-encoder` writes it; random, or random:WEIGHTS, for its initial weights as a control."""

    name: ClassVar[str] = "timm"
