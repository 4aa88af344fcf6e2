"""How the two embedded networks for digits are trained: digits-vit to align to, digits-cnn to score with."""

import copy
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vco.api import FeatureSetting, FeatureSource, Recipe, RecipeSetting, UserError
from vco_plugins.features import digits_cnn, digits_vit

WARM_UP = 50


class _Digits(Recipe):
    """What both share: AdamW with a cosine to zero, digits that are turned, scaled and shifted a little."""

    batch_size: ClassVar[int] = 100
    rate: ClassVar[float]
    source: ClassVar[type[Any]]
    """Its feature source, which is built without options."""
    file: ClassVar[str]
    """Name of the file with its weights."""

    def __init__(self, config: Recipe.Config, setting: RecipeSetting) -> None:
        if setting.image_shape != (1, 8, 8):
            raise UserError(
                "this network is made for 8x8 digits; train it with --data digits, or take --features timm."
            )
        self.config, self.setting = config, setting
        self.network = self.parts = nn.ModuleDict(self.made())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.rate, weight_decay=0.05)

    def made(self) -> dict[str, nn.Module]:
        """The network, under that name, and what helps to train it."""
        raise NotImplementedError

    def before_step(self, step: int) -> None:
        warm_up = min(1.0, (step + 1) / WARM_UP)
        rate = self.rate * warm_up * (1 + math.cos(math.pi * step / self.setting.steps)) / 2
        self.optimizer.param_groups[0]["lr"] = rate

    def write(self, folder: Path) -> FeatureSource:
        from safetensors.torch import save_file

        network = copy.deepcopy(self.parts["network"]).cpu().half()
        save_file(network.state_dict(), folder / self.file)
        source = self.source(self.source.Config(), FeatureSetting(image_shape=(1, 8, 8)))
        source.network = network.float().requires_grad_(False).eval()
        return source


class DigitsViTRecipe(_Digits):
    """Tells digits from the class token and from the mean patch token, and keeps each patch's pixels in its token."""

    epochs: ClassVar[int] = 80
    rate: ClassVar[float] = 2e-3
    source: ClassVar[type[Any]] = digits_vit.DigitsViT
    file: ClassVar[str] = "digits_vit.safetensors"

    def made(self) -> dict[str, nn.Module]:
        return {
            "network": digits_vit.Network(),
            "patch_classifier": nn.Linear(digits_vit.WIDTH, digits_vit.CLASSES),
            "painter": nn.Linear(digits_vit.WIDTH, digits_vit.PATCH**2),
        }

    def loss(self, images: Float[Tensor, "b 1 8 8"], labels: Int[Tensor, " b"]) -> Tensor:
        network: Any = self.parts["network"]
        images = jittered(images)
        hidden = network.norm(network(images))
        patches = F.unfold(images, digits_vit.PATCH, stride=digits_vit.PATCH).transpose(1, 2)
        return (
            F.cross_entropy(network.classifier(hidden[:, 0]), labels, label_smoothing=0.1)
            + F.cross_entropy(self.parts["patch_classifier"](hidden[:, 1:].mean(1)), labels, label_smoothing=0.1)
            + F.mse_loss(self.parts["painter"](hidden[:, 1:]), patches)
        )


class DigitsCNNRecipe(_Digits):
    """Tells the digits and, so that features spread instead of collapsing to the classes, redraws them linearly."""

    epochs: ClassVar[int] = 60
    rate: ClassVar[float] = 3e-3
    source: ClassVar[type[Any]] = digits_cnn.DigitsCNN
    file: ClassVar[str] = "digits_cnn.safetensors"

    def made(self) -> dict[str, nn.Module]:
        return {"network": digits_cnn.Network(), "painter": nn.Linear(digits_cnn.WIDTH, digits_cnn.SIDE**2)}

    def loss(self, images: Float[Tensor, "b 1 8 8"], labels: Int[Tensor, " b"]) -> Tensor:
        network: Any = self.parts["network"]
        images = jittered(images)
        pooled = network(images).mean(1)
        drawn = F.mse_loss(self.parts["painter"](pooled), images.flatten(1))
        return F.cross_entropy(network.classifier(pooled), labels, label_smoothing=0.1) + drawn


def jittered(images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 1 8 8"]:
    """Turns by about 6 degrees, scales by about 6 %, shifts by half a pixel; leaves a quarter alone."""
    jitter = (torch.rand(len(images)) < 0.75).float()
    turn, log_scale, right, down = torch.randn(4, len(images)) * torch.tensor([0.1, 0.06, 0.12, 0.12])[:, None] * jitter
    cos, sin = log_scale.exp() * turn.cos(), log_scale.exp() * turn.sin()
    maps = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1).to(images)
    where = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, where, align_corners=False) - 1  # black, not gray, comes in from outside
