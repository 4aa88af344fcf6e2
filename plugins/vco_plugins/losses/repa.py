"""REPA's alignment loss."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs.validators import ge
from jaxtyping import Float
from torch import Tensor

from vco.api import LossSetting, Step, Tap, UserError
from vco_plugins.alignment import AlignmentConfig, AlignmentLoss
from vco_plugins.layers import CLASS_TOKEN, mlp


def _has_a_target(config: Any, attribute: "attrs.Attribute[bool]", value: bool) -> None:
    if value and config.target == "stream":
        raise ValueError("class_token is aligned to the encoder's pooled vector: set target=encoder or target=features")


class REPA(AlignmentLoss):
    """Hidden tokens of a block, through an MLP, align with the encoder's tokens of the clean image [REPA].

    Where the encoder's class token is denoised beside the image, its hidden token may be aligned with it too, and then
    counts as one token more [REG].

    Raises:
        UserError: If the grid of the hidden tokens is not that of the target, or there is no stream to align to; from
            `forward` if the backbone hands out no hidden class token.

    Source: Representation Alignment for Generation (arXiv 2410.06940). V-Co's ablation (arXiv 2603.16792) has weight
        0.1, block 5 of 12 and target "stream"; REG (arXiv 2507.01467) aligns the class token.
    """

    @attrs.frozen(kw_only=True)
    class Config(AlignmentConfig):
        """What a user may set."""

        hidden: int = attrs.field(default=2048, validator=ge(1))
        """Width of the projector's hidden layers, at least 1."""
        layers: int = attrs.field(default=3, validator=ge(1))
        """Linear layers of the projector, at least 1, with SiLU between them."""
        class_token: bool = attrs.field(default=False, validator=_has_a_target)
        """Whether the hidden class token is aligned too, with the encoder's pooled vector (REG)."""

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__(config, setting)
        spec = setting.features[self.encoder]
        if config.class_token and CLASS_TOKEN not in setting.streams:
            raise UserError(
                f"--.class-token true: this run denoises no stream {CLASS_TOKEN!r}, only "
                f"{', '.join(setting.streams)}; choose --adapter class-token"
            )
        if config.class_token and spec.pooled != spec.tokens[1]:
            raise UserError(
                f"--.class-token true: the pooled vector of {self.encoder} is {spec.pooled} wide and its tokens are "
                f"{spec.tokens[1]} wide, so that one projector does not serve both; choose other --features"
            )

    def build(self, width: int, grid: tuple[int, int], outputs: int) -> None:
        config = self.config
        self.projector = mlp(width, *[config.hidden] * (config.layers - 1), outputs)

    def project(self, tap: Tap) -> Float[Tensor, "b n e"]:
        if not self.config.class_token:
            return self.projector(tap.tokens)
        if CLASS_TOKEN not in tap.others:
            raise UserError("the backbone hands out no hidden class token: leave out --loss.class-token, or choose sit")
        return self.projector(torch.cat([tap.others[CLASS_TOKEN].to(tap.tokens.dtype), tap.tokens], dim=1))

    def targets(self, step: Step, tap: Tap) -> Float[Tensor, "b n e"]:
        tokens = super().targets(step, tap)
        if not self.config.class_token:
            return tokens
        return torch.cat([self.seen(step).pooled.detach().float()[:, None], tokens], dim=1)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        return {"repa": self.align(step)}
