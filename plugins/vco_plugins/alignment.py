"""What the losses that align hidden tokens with encoder tokens have in common."""

from abc import abstractmethod
from typing import Literal

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge, in_
from jaxtyping import Float
from torch import Tensor

from vco.api import FEATURES, Features, Loss, LossSetting, ReadsFeatures, Step, Tap, UserError, chosen_features


@attrs.frozen(kw_only=True)
class AlignmentConfig(ReadsFeatures, Loss.Config):
    """What a user may set; common to all losses that align hidden tokens."""

    weight: float = attrs.field(default=0.5, validator=ge(0.0))
    """Factor of this loss in the total, at least 0."""
    block: int = attrs.field(default=4, validator=ge(1))
    """Block whose tokens are aligned, at least 1, the first (REPA: 4 for B, 8 for L and larger; V-Co's B: 5)."""
    target: Literal["encoder", "features", "stream"] = attrs.field(
        default="encoder", validator=in_(("encoder", "features", "stream"))
    )
    """What they are aligned to: the encoder's own tokens, its features as --features asks for them (with
    --features.norm affine REPA's, resized as published), or the clean feature stream that the adapter has made of them
    (V-Co)."""


class AlignmentLoss(Loss):
    """Minus the cosine between projected hidden tokens and the encoder's tokens of the clean image, in [-1, 1].

    Hidden tokens are compared with the encoder's at the same positions, whichever of them the backbone kept. The target
    is the encoder's stock view (`step.real`), its view for streams, or the feature stream without gradient. A subclass
    says how tokens are projected and targets prepared.

    Raises:
        UserError: If the grid of the hidden tokens is not that of the target, or there is no stream to align to.

    Source: REPA (arXiv 2410.06940), eq. 8; V-Co (arXiv 2603.16792) aligns to its feature stream.
    """

    def __init__(self, config: AlignmentConfig, setting: LossSetting) -> None:
        super().__init__()
        self.encoder, spec = chosen_features(setting.features, config.features)
        grid, outputs = spec.grid, spec.tokens[1]
        if config.target == "stream":
            if FEATURES not in setting.streams:
                raise UserError(
                    f"--.target stream: this run denoises no stream {FEATURES!r}, only {', '.join(setting.streams)}; "
                    "choose --.target encoder, or a backbone that denoises features, such as jit-dual"
                )
            grid, outputs = setting.streams[FEATURES].grid, setting.streams[FEATURES].shape[-1]
        if grid != setting.grid:
            raise UserError(
                f"token by token, the features' grid {grid} cannot be compared with the backbone's grid "
                f"{setting.grid}: change --backbone.patch, or take --features (or their resolution) of the same grid"
            )
        self.config = config
        self.build(setting.width, setting.grid, outputs)

    @abstractmethod
    def build(self, width: int, grid: tuple[int, int], outputs: int) -> None:
        """Makes the projection from tokens of width `width` to tokens of width `outputs`."""

    @abstractmethod
    def project(self, tap: Tap) -> Float[Tensor, "b n e"]:
        """Hidden tokens, brought to the width of the target."""

    def prepared(self, target: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
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
            return negative_cosine(projected, self.targets(step, tap))

    def targets(self, step: Step, tap: Tap) -> Float[Tensor, "b n e"]:
        """What the projected tokens are aligned to, float32 and without gradient."""
        tokens = step.clean[FEATURES] if self.config.target == "stream" else self.seen(step).tokens
        return tap.of(self.prepared(tokens.detach().float()))

    def seen(self, step: Step) -> Features:
        """What the encoder says of the clean images."""
        return step.features(self.encoder) if self.config.target == "features" else step.real(self.encoder)


def negative_cosine(projected: Float[Tensor, "b n e"], target: Float[Tensor, "b n e"]) -> Float[Tensor, " b"]:
    """Minus the cosine of each token with its target, averaged over the tokens, in [-1, 1]; float32.

    Float32 because half precision loses the length of large tokens and the guard against zero ones.
    """
    return -(F.normalize(projected.float(), dim=-1) * F.normalize(target.float(), dim=-1)).sum(-1).mean(1)
