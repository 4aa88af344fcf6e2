"""A frozen encoder for laws about losses."""

from typing import Final

import torch
from torch import Tensor, nn

from vco.api import Features, FeatureSource, StreamSpec

PATCH: Final = 2
"""Side of the image's cells that become tokens, in pixels."""


class ToyEncoder(FeatureSource):
    """A frozen random encoder with two views, through which gradients reach the images."""

    def __init__(self, config: FeatureSource.Config, *, channels: int, spec: StreamSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        generator = torch.Generator().manual_seed(11)
        inputs, width = channels * PATCH**2, spec.shape[1]

        def weight(*shape: int) -> nn.Parameter:
            values = torch.randn(shape, generator=generator, device="cpu") * shape[0] ** -0.5
            return nn.Parameter(values, requires_grad=False)

        self.patches, self.mixed, self.pool = weight(inputs, width), weight(width, width), weight(width, width)

    def load(self) -> None:
        """Nothing to read."""

    def forward(self, images: Tensor) -> Features:
        """One view."""
        cells = nn.functional.unfold(images.float(), PATCH, stride=PATCH).transpose(1, 2)
        return self._features(torch.tanh(cells @ self.patches))

    def perceive(self, images: Tensor) -> Features:
        """Another view."""
        return self._features(torch.tanh(self(images).tokens @ self.mixed))

    def _features(self, tokens: Tensor) -> Features:
        assert self.spec.grid
        return Features(tokens=tokens, grid=self.spec.grid, pooled=torch.tanh(tokens.mean(1) @ self.pool))
