"""The loss `my-loss`: what else should hold for a prediction, beside being close to the clean image.

The contract is `vco.api.Loss`. `vco.api.Step` lists all that a loss can look at: images, labels, times, the network's
prediction and its hidden tokens ("taps"), the features of frozen encoders, and networks that it may ask again.
"""

from collections.abc import Mapping

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import and_, ge, lt
from jaxtyping import Float
from torch import Tensor

from vco.api import Loss, LossSetting, ReadsFeatures, Step, chosen_features


class MyLoss(Loss):
    """Each patch of the predicted image has features that point where those of the clean image do.

    Both images go through a frozen encoder of `--features`. A patch costs one minus the cosine of its two tokens.
    """

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Loss.Config):
        """What a user may set, beside what all losses share (weight, warmup_steps, ...) and the encoder's name."""

        margin: float = attrs.field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
        """Distance of a patch that costs nothing, in [0, 1)."""

    def __init__(self, config: Config, setting: LossSetting) -> None:
        """Whatever the loss learns is made here, such as a projection of the taps, [b, n, setting.width]."""
        super().__init__()
        self.config = config
        self.encoder, _ = chosen_features(setting.features, config.features)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        """Named terms, one value a sample: vco takes the mean, and multiplies it by the weight.

        Tokens are [b, n, d]. A gradient reaches the network through `step.generated`; `step.real` carries none.
        """
        predicted = step.generated(self.encoder).tokens.float()
        clean = step.real(self.encoder).tokens.float()
        with torch.autocast(predicted.device.type, enabled=False):  # losses are computed in float32
            distance = 1 - F.cosine_similarity(predicted, clean, dim=-1)
        return {"my-loss": F.relu(distance - self.config.margin).mean(dim=1)}
