"""Perceptual alignment of the predicted image with its own clean image."""

from collections.abc import Mapping

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import and_, ge, le, optional
from jaxtyping import Float
from torch import Tensor

from vco.api import Loss, LossSetting, ReadsFeatures, Step, chosen_features


class Perceptual(Loss):
    """One minus the cosine between patch tokens of predicted and clean image [V-Co's ablation].

    Averaged over the tokens, then over the samples. With a gate, a sample that is close enough to its image
    has a loss of zero; the mean still runs over it, so that no sample's share depends on the others.

    Source: V-Co (arXiv 2603.16792), perceptual loss.
    """

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Loss.Config):
        """What a user may set."""

        weight: float = attrs.field(default=0.01, validator=ge(0.0))
        """Factor of this loss in the total, at least 0."""
        gate: float | None = attrs.field(default=None, validator=optional(and_(ge(-1.0), le(1.0))))
        """Only samples whose mean cosine is below this count, in [-1, 1]; by default all do."""

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, _ = chosen_features(setting.features, config.features)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        predicted = step.generated(self.encoder).tokens.float()
        clean = step.real(self.encoder).tokens.detach().float()
        with torch.autocast(predicted.device.type, enabled=False):
            cosine = F.cosine_similarity(predicted, clean, dim=-1).mean(1)
        loss = 1 - cosine
        if self.config.gate is not None:
            loss = loss * (cosine.detach() < self.config.gate)
        return {"perceptual": loss}
