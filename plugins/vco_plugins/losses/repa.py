"""REPA's alignment loss."""

from collections.abc import Mapping

import attrs
from attrs.validators import ge
from jaxtyping import Float
from torch import Tensor

from vco.api import Step, Tap
from vco_plugins.alignment import AlignmentConfig, AlignmentLoss
from vco_plugins.layers import mlp


class REPA(AlignmentLoss):
    """Hidden tokens of a block, through an MLP, align with the encoder's tokens of the clean image [REPA].

    Raises:
        UserError: If the grid of the hidden tokens is not that of the target, or there is no stream to align to.

    Source: Representation Alignment for Generation (arXiv 2410.06940). V-Co's ablation (arXiv 2603.16792) has weight
        0.1, block 5 of 12 and target "stream".
    """

    @attrs.frozen(kw_only=True)
    class Config(AlignmentConfig):
        """What a user may set."""

        hidden: int = attrs.field(default=2048, validator=ge(1))
        """Width of the projector's hidden layers, at least 1."""
        layers: int = attrs.field(default=3, validator=ge(1))
        """Linear layers of the projector, at least 1, with SiLU between them."""

    def build(self, width: int, grid: tuple[int, int], outputs: int) -> None:
        config = self.config
        self.projector = mlp(width, *[config.hidden] * (config.layers - 1), outputs)

    def project(self, tap: Tap) -> Float[Tensor, "b n e"]:
        return self.projector(tap.tokens)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        return {"repa": self.align(step)}
