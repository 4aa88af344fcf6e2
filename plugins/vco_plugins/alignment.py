"""What the losses that align hidden tokens with encoder tokens have in common."""

from abc import abstractmethod

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge
from jaxtyping import Float
from torch import Tensor

from vco.api import Loss, Step, StreamSpec, Tap, UserError


@attrs.frozen(kw_only=True)
class AlignmentConfig(Loss.Config):
    """What a user may set; common to all losses that align hidden tokens."""

    weight: float = attrs.field(default=0.5, validator=ge(0.0))
    """Factor of this loss in the total, at least 0."""
    block: int = attrs.field(default=4, validator=ge(1))
    """Block whose tokens are aligned, at least 1, the first (REPA: 4 for B, 8 for L and larger)."""


class AlignmentLoss(Loss):
    """Minus the cosine between projected hidden tokens and the encoder's tokens of the clean image, in [-1, 1].

    Hidden tokens are compared with the encoder's at the same positions, whichever of them the backbone kept. The target
    is the encoder's stock view (`step.real`). A subclass says how tokens are projected and targets prepared.

    Raises:
        UserError: If the grid of the hidden tokens is not that of the features.

    Source: REPA (arXiv 2410.06940), eq. 8.
    """

    def __init__(
        self, config: AlignmentConfig, *, width: int, tap_grid: tuple[int, int], features: StreamSpec | None
    ) -> None:
        super().__init__()
        assert features is not None
        if features.grid != tap_grid:
            raise UserError(
                f"token by token, the features' grid {features.grid} cannot be compared with the backbone's grid "
                f"{tap_grid}: change --backbone.patch, or take --features (or their resolution) of the same grid"
            )
        self.config = config
        self.build(width, tap_grid, features.shape[-1])

    @abstractmethod
    def build(self, width: int, grid: tuple[int, int], outputs: int) -> None:
        """Makes the projection from tokens of width `width` to tokens of width `outputs`."""

    @abstractmethod
    def project(self, tap: Tap) -> Float[Tensor, "b n e"]:
        """Hidden tokens, brought to the width of the target."""

    def prepare(self, target: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        """The target, made of all tokens of the clean images. Default: as it is."""
        return target

    @property
    def taps(self) -> tuple[int, ...]:
        return (self.config.block,)

    def align(self, step: Step) -> Float[Tensor, " b"]:
        """The loss of each sample."""
        tap = step.denoised.taps[self.config.block]
        projected = self.project(tap)
        with torch.autocast(projected.device.type, enabled=False):
            target = self.prepare(step.real.tokens.detach().float())
            return negative_cosine(projected, target[:, tap.positions])


def negative_cosine(projected: Float[Tensor, "b n e"], target: Float[Tensor, "b n e"]) -> Float[Tensor, " b"]:
    """Minus the cosine of each token with its target, averaged over the tokens, in [-1, 1]; float32.

    Float32 because half precision loses the length of large tokens and the guard against zero ones.
    """
    return -(F.normalize(projected.float(), dim=-1) * F.normalize(target.float(), dim=-1)).sum(-1).mean(1)
