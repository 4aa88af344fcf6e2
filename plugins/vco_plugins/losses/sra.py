"""SRA's alignment of the network with its own running average."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import and_, ge, in_, le
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Loss, LossSetting, Step, Tap, UserError
from vco_plugins.layers import linear


class SRA(Loss):
    """Hidden tokens align with deeper ones that the network's running average makes of a cleaner image [SRA].

    The average is asked about the same images, noise and condition, at times that are up to `ahead` later; its tokens
    are compared as they are, those of the trained network go through a small MLP first. No encoder is needed.

    Raises:
        UserError: If the network has no block `teacher_block`.

    Source: No Other Representation Component Is Needed (arXiv 2505.02831), with the cosine loss of its code.
    """

    needs_features: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        weight: float = attrs.field(default=0.5, validator=ge(0.0))
        """Factor of this loss in the total, at least 0."""
        block: int = attrs.field(default=4, validator=ge(1))
        """Block of the trained network whose tokens are aligned, at least 1, the first (SRA's XL: 8)."""
        teacher_block: int = attrs.field(default=8, validator=ge(1))
        """Block of the average whose tokens they are aligned to, at least 1 (SRA's XL: 20 for SiT, 16 for DiT)."""
        ahead: float = attrs.field(default=0.2, validator=and_(ge(0.0), le(1.0)))
        """The average's time is later by a uniform share of this, and 1 (data) at the latest; in [0, 1]."""
        per: Literal["token", "channel"] = attrs.field(default="token", validator=in_(("token", "channel")))
        """What a cosine is taken of: each token's channels, or (published code) each channel's tokens."""

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        if config.teacher_block > setting.depth:
            raise UserError(
                f"--.teacher-block {config.teacher_block}: the network has blocks 1 to {setting.depth}; set a block of "
                "these, deeper than --.block"
            )
        self.config = config
        self.tokens = setting.grid[0] * setting.grid[1]
        width = setting.width
        self.head = nn.Sequential(linear(width, 2 * width), nn.SiLU(), linear(2 * width, width))

    @property
    def taps(self) -> tuple[int, ...]:
        return (self.config.block,)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        config = self.config
        later = config.ahead * step.generator.rand()
        times = {name: (t + (later if t.ndim == 1 else later[:, None])).clamp(max=1) for name, t in step.times.items()}
        condition = replace(step.condition, until={})  # the average is asked about one time
        answer = step.teacher(step.noised(times), times, condition, (config.teacher_block,))
        tap = step.denoised.taps[config.block]
        target = tap.of(_on_grid(answer.taps[config.teacher_block], self.tokens))
        projected = self.head(tap.tokens)
        with torch.autocast(projected.device.type, enabled=False):
            axis = -1 if config.per == "token" else 1
            return {"sra": 1 - F.cosine_similarity(projected.float(), target.detach().float(), dim=axis).mean(1)}


def _on_grid(tap: Tap, tokens: int) -> Float[Tensor, "b m d"]:
    """A tap's tokens in the order of the whole grid; zeros where it has none."""
    grid = tap.tokens.new_zeros(len(tap.tokens), tokens, tap.tokens.shape[-1])
    return grid.scatter(1, tap.positions.expand(len(grid), -1)[..., None].expand_as(tap.tokens), tap.tokens)
