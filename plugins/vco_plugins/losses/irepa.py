"""iREPA's alignment loss."""

from collections.abc import Mapping

import attrs
from attrs.validators import and_, ge, le
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Step, Tap
from vco_plugins.alignment import AlignmentConfig, AlignmentLoss
from vco_plugins.spatial import spatial_norm


def _is_odd(config: AlignmentConfig, attribute: "attrs.Attribute[int]", value: int) -> None:
    if value < 1 or value % 2 == 0:
        raise ValueError(f"kernel must be odd and at least 1, got {value}")


class IREPA(AlignmentLoss):
    """REPA with a convolution as projector and a target normalised over the image's tokens [iREPA].

    The convolution keeps PyTorch's initial weights, as in the published code. Where the backbone dropped tokens, it
    sees zeros, as beyond the border.

    Raises:
        UserError: If the grid of the hidden tokens is not that of the features.

    Source: What Matters for Representation Alignment (arXiv 2512.10794).
    """

    @attrs.frozen(kw_only=True)
    class Config(AlignmentConfig):
        """What a user may set."""

        kernel: int = attrs.field(default=3, validator=_is_odd)
        """Side of the convolution's kernel, odd and at least 1."""
        alpha: float = attrs.field(default=0.8, validator=and_(ge(0.0), le(1.0)))
        """Share of the target's spatial mean that is removed, in [0, 1] (published code: 0.8 for JiT, 0.6 for SiT)."""

    def build(self, width: int, grid: tuple[int, int], outputs: int) -> None:
        self.grid = grid
        self.projector = nn.Conv2d(width, outputs, self.config.kernel, padding=self.config.kernel // 2)

    def project(self, tap: Tap) -> Float[Tensor, "b n e"]:
        full = tap.tokens.new_zeros(len(tap.tokens), self.grid[0] * self.grid[1], tap.tokens.shape[-1])
        where = tap.positions.expand(len(tap.tokens), -1)[..., None].expand_as(tap.tokens)
        tokens = full.scatter(1, where, tap.tokens)
        maps = self.projector(tokens.transpose(1, 2).unflatten(2, self.grid))
        return tap.of(maps.flatten(2).transpose(1, 2))

    def prepared(self, target: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        return spatial_norm(target, self.config.alpha)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        return {"irepa": self.align(step)}
