"""The embedded feature source: a tiny ViT for 8x8 digits, with its weights."""

from collections.abc import Sequence
from importlib.resources import files
from typing import ClassVar, Literal

import attrs
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Features, FeatureSetting, FeatureSource, FeatureSpec, UserError

WIDTH, DEPTH, HEADS, PATCH, SIDE, CLASSES = 48, 4, 4, 2, 8, 10
GRID = (SIDE // PATCH, SIDE // PATCH)


class DigitsViT(FeatureSource):
    """A tiny ViT for 8x8 digits that ships with the package: 4x4 patch tokens of width 48, class token.

    Tokens are the last block's patch tokens after a LayerNorm without affine; `pooled` is the class token
    after the network's own (affine) final norm. `vco train-encoder --features digits-vit` trained it on the
    training split alone, to tell the digits from the class token and from the mean patch token, and to keep
    each patch's pixels in its token. Accuracy on the 297 held-out digits: 98.7 %.
    """

    recipe: ClassVar[str] = "vco_plugins.recipes.digits:DigitsViTRecipe"

    @attrs.frozen(kw_only=True)
    class Config(FeatureSource.Config):
        """What a user may set."""

        weights: Literal["digits-vit", "random"] = "digits-vit"
        """digits-vit, the weights that ship with the package; or random, its initial weights as a control."""

    def __init__(self, config: Config, setting: FeatureSetting) -> None:
        super().__init__()
        if setting.image_shape != (1, SIDE, SIDE):
            raise UserError(
                f"The feature source digits-vit reads only images of shape (1, 8, 8), as --data digits has "
                f"them, not {setting.image_shape}; for other images use dinov2 (to align to) or inception (to score)."
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
                load(files("vco_plugins.features").joinpath("digits_vit.safetensors").read_bytes())
            )
        self.network.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "b 1 8 8"]) -> Features:
        dtype = self.network.positions.dtype  # not the images': autocast may have left those in bfloat16
        hidden = self.network(images.to(dtype))
        pooled = self.network.norm(hidden[:, 0]).to(dtype)
        return Features(
            tokens=F.layer_norm(hidden[:, 1:], (WIDTH,)).to(dtype),
            grid=GRID,
            pooled=pooled,
            logits=self.network.classifier(pooled).to(dtype),
        )

    def block_modules(self) -> Sequence[nn.Module]:
        return list(self.network.blocks)

    def classify(self, images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 10"]:
        """Class logits of images in [-1, 1]."""
        logits = self(images).logits
        assert logits is not None
        return logits


class Network(nn.Module):
    """A pre-norm ViT from images to the 17 tokens of width 48 before its final norm; class token first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTH, kernel_size=PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + GRID[0] * GRID[1], WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b n d"]:
        """Embeds the patches and runs the blocks."""
        patches = self.embed(images).flatten(2).transpose(1, 2)
        return self.blocks(torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1) + self.positions)


class Block(nn.Module):
    """Attention, then a GELU network of hidden width 4 x 48; both pre-norm and residual."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens in, tokens out."""
        qkv = self.qkv(self.attention_norm(tokens)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        tokens = tokens + self.projection(mixed)
        return tokens + self.mlp(tokens)
