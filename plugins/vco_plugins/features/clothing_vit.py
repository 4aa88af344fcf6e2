"""The embedded feature source for photographs of clothes: a small ViT with a convolution in front."""

from typing import ClassVar

import attrs
from attrs.validators import instance_of

from vco_plugins.timm_networks import TimmConfig, TimmEncoder


class ClothingViT(TimmEncoder):
    """A small ViT for clothing32 that ships with the package: 8x8 tokens of width 48, as many numbers as an image.

    Trained on the training split of clothing32 alone, to tell its 14 classes (`vco train-encoder`, docs/data.md).
    Tokens are the last block's after a LayerNorm without affine part; `pooled` is the mean of the tokens under the
    network's own norm. Accuracy on the 490 held-out photographs: 60.8 %. Images of other sizes are resized to 32x32.
    """

    @attrs.frozen(kw_only=True)
    class Config(TimmConfig):
        """What a user may set."""

        weights: str = attrs.field(default="clothing-vit", validator=instance_of(str), metadata={"location": True})
        """clothing-vit, the weights that ship with the package; or random, for its initial weights as a control."""

    name: ClassVar[str] = "clothing-vit"
    shipped: ClassVar[str] = "clothing-vit"
