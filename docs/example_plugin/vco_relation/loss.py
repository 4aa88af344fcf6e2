"""A loss on relations between tokens."""

from collections.abc import Mapping

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import and_, ge, lt
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Loss, LossSetting, ReadsFeatures, Step, UserError, chosen_features


class Relation(Loss):
    """Hidden tokens are as similar to each other as an encoder's tokens are [example].

    Raises:
        UserError: If the grid of the hidden tokens is not that of the features.
    """

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Loss.Config):
        """What a user may set."""

        block: int = attrs.field(default=2, validator=ge(1))
        """Block whose tokens are compared, at least 1 (after the first block)."""
        margin: float = attrs.field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
        """Difference of cosine similarities that costs nothing, in [0, 1)."""

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        self.encoder, spec = chosen_features(setting.features, config.features)
        if spec.grid != setting.grid:
            raise UserError(
                f"the features' grid {spec.grid} is not the backbone's grid {setting.grid}: choose other --features"
            )
        if config.block > setting.depth:
            raise UserError(f"--.block {config.block}: the network has blocks 1 to {setting.depth}; set one of these")
        self.config = config
        self.project = nn.Linear(setting.width, spec.tokens[1])

    @property
    def taps(self) -> tuple[int, ...]:
        """The one block it reads."""
        return (self.config.block,)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        """The mean squared difference of the two matrices of cosine similarities, of each sample."""
        tap = step.denoised.taps[self.config.block]
        with torch.autocast(tap.tokens.device.type, enabled=False):  # losses are computed in float32
            ours = F.normalize(self.project(tap.tokens.float()), dim=-1)
            theirs = F.normalize(tap.of(step.features(self.encoder).tokens).float(), dim=-1)
            gap = (ours @ ours.mT - theirs @ theirs.mT).abs()
            return {"relation": F.relu(gap - self.config.margin).square().mean((1, 2))}
