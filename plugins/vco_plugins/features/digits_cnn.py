"""The network that scores generated digits; not digits-vit, so that no feature scores itself."""

from collections.abc import Sequence
from importlib.resources import files
from typing import ClassVar, Literal

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Features, FeatureSetting, FeatureSource, FeatureSpec, UserError

WIDTH, SIDE, GRID, CLASSES = 64, 8, (4, 4), 10


class DigitsCNN(FeatureSource):
    """A tiny CNN for 8x8 digits that ships with the package, to score them with: 64 features, 4x4 tokens.

    `pooled` is the mean of the 16 tokens (the last GELU activations). `vco train-encoder --features digits-cnn`
    trained it on the training split alone to tell the digits and, so that the features spread instead of
    collapsing to the classes, to redraw the image linearly from `pooled`. Accuracy on the 297 held-out
    digits: 99.3 %.
    """

    recipe: ClassVar[str] = "vco_plugins.recipes.digits:DigitsCNNRecipe"

    @attrs.frozen(kw_only=True)
    class Config(FeatureSource.Config):
        """What a user may set."""

        weights: Literal["digits-cnn", "random"] = "digits-cnn"
        """digits-cnn, the weights that ship with the package; or random, its initial weights as a control."""

    def __init__(self, config: Config, setting: FeatureSetting) -> None:
        super().__init__()
        if setting.image_shape != (1, SIDE, SIDE):
            raise UserError(
                f"The feature source digits-cnn reads only images of shape (1, 8, 8), as --data digits has "
                f"them, not {setting.image_shape}; for other images use inception (to score) or dinov2 (to align to)."
            )
        self.config = config
        remark = "random weights" if config.weights == "random" else ""
        self.spec = FeatureSpec(tokens=(GRID[0] * GRID[1], WIDTH), grid=GRID, classes=CLASSES, remark=remark)

    def load(self) -> None:
        from safetensors.torch import load

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = Network()
        if self.config.weights != "random":
            self.network.load_state_dict(
                load(files("vco_plugins.features").joinpath("digits_cnn.safetensors").read_bytes())
            )
        self.network.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "b 1 8 8"]) -> Features:
        dtype = self.network.classifier.weight.dtype  # not the images': autocast may have left those in bfloat16
        tokens = self.network(images.to(dtype)).to(dtype)
        pooled = tokens.mean(1)
        return Features(tokens=tokens, grid=GRID, pooled=pooled, logits=self.network.classifier(pooled).to(dtype))

    def block_modules(self) -> Sequence[nn.Module]:
        return [self.network.layers]

    def classify(self, images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 10"]:
        """Class logits of images in [-1, 1]."""
        logits = self(images).logits
        assert logits is not None
        return logits


class Network(nn.Module):
    """Four 3x3 convolutions, the third with stride 2: images [b, 1, 8, 8] in, tokens [b, 16, 64] out."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 32, 1), (32, 32, 1), (32, 64, 2), (64, WIDTH, 1)):
            layers += [
                nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1),
                nn.GroupNorm(8, outputs),
                nn.GELU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b n d"]:
        """The last activations as tokens, row-major."""
        return self.layers(images).flatten(2).transpose(1, 2)
