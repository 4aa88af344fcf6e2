"""The network that scores generated photographs of clothes; not clothing-vit, so that no feature scores itself."""

from typing import ClassVar

import attrs
from attrs.validators import instance_of

from vco_plugins.timm_networks import TimmConfig, TimmEncoder


class ClothingCNN(TimmEncoder):
    """A small ResNet for clothing32 that ships with the package, to score with: 112 features, 4x4 tokens.

    Trained on the training split of clothing32 alone, to tell its 14 classes (`vco train-encoder`, docs/data.md).
    `pooled` is the mean of the last stage's map. Accuracy on the 490 held-out photographs: 69.4 %. Images of other
    sizes are resized to 32x32.
    """

    @attrs.frozen(kw_only=True)
    class Config(TimmConfig):
        """What a user may set."""

        weights: str = attrs.field(default="clothing-cnn", validator=instance_of(str), metadata={"location": True})
        """clothing-cnn, the weights that ship with the package; or random, for its initial weights as a control."""

    name: ClassVar[str] = "clothing-cnn"
    shipped: ClassVar[str] = "clothing-cnn"
