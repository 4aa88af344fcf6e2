"""The feature source `my-features`: the frozen encoder that a run is aligned to.

The contract is `vco.api.FeatureSource`. Images are [b, c, h, w] in [-1, 1], tokens [b, n, d] in row-major order.
"""

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge
from jaxtyping import Float
from torch import Tensor

from vco.api import Features, FeatureSetting, FeatureSource, FeatureSpec, UserError


class MyFeatures(FeatureSource):
    """Responses of every patch to random filters that never change: features without a checkpoint.

    Raises:
        UserError: If the patch does not divide the image, as its edge would be cropped.
    """

    @attrs.frozen(kw_only=True)
    class Config(FeatureSource.Config):
        """What a user may set."""

        patch: int = attrs.field(default=2, validator=ge(1))
        """Side of a patch in pixels, at least 1; most backbones want the grid of their own patches."""
        width: int = attrs.field(default=64, validator=ge(1))
        """Number of filters, the width d of a token, at least 1."""
        seed: int = 0
        """Which filters are drawn."""

    filters: Tensor

    def __init__(self, config: Config, setting: FeatureSetting) -> None:
        """Cheap: says what tokens there will be, and makes no weights."""
        super().__init__()
        channels, height, width = setting.image_shape
        if height % config.patch or width % config.patch:
            # vco completes "--." to the option that it was chosen with, --features or --metric
            raise UserError(f"--.patch {config.patch} does not divide images of {height}x{width}: choose another")
        self.config = config
        self.grid = (height // config.patch, width // config.patch)
        self.filter_shape = (config.width, channels, config.patch, config.patch)
        self.spec = FeatureSpec(tokens=(self.grid[0] * self.grid[1], config.width), grid=self.grid)

    def load(self) -> None:
        """Called once, before the first image; a trained encoder is built and its file read here.

        It also overrides `check`, which says which file is missing and where to get it.
        """
        draws = torch.Generator().manual_seed(self.config.seed)
        filters = torch.randn(self.filter_shape, generator=draws)
        self.register_buffer("filters", filters / filters[0].numel() ** 0.5)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        """Tokens in float32; `pooled` is one vector an image, such as a class token. Gradients reach the images."""
        responses = F.conv2d(images.to(self.filters.dtype), self.filters, stride=self.config.patch)
        tokens = F.gelu(responses).flatten(2).transpose(1, 2).float()
        return Features(tokens=tokens, grid=self.grid, pooled=tokens.mean(dim=1))
