"""DINO-Forcing's loss, and the pass before it that tells the network what it predicts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, le
from jaxtyping import Float
from torch import Tensor

from vco.api import FEATURES, Denoised, Loss, LossSetting, ReadsFeatures, Step, UserError, chosen_features
from vco_plugins.alignment import negative_cosine


class DinoForcing(Loss):
    """The network predicts an encoder's features of the clean image, told a first prediction of them [DINO-Forcing].

    Before the step proper, the network is asked without features, in eval mode and without gradient. What it predicts
    is what it is told in the step; some samples are told the true features instead, and some nothing. The loss is minus
    the cosine of each predicted token with its true one, averaged, in [-1, 1], for all samples alike. It needs a
    network that predicts features (--backbone dino-forcing).

    Raises:
        UserError: From `prepare`, if the network predicts the features of another encoder.

    Source: Dino Forcing Flow Models: Do Not Denoise What You Can Predict (Ghosh, Degeorge et al.).
    """

    needs_context: ClassVar[tuple[str, ...]] = (FEATURES,)

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Loss.Config):
        """What a user may set."""

        weight: float = attrs.field(default=0.03, validator=ge(0.0))
        """Factor of this loss in the total, at least 0 (published: 0.03 for pixels, 0.5 for latents)."""
        true: float = attrs.field(default=0.05, validator=and_(ge(0.0), le(1.0)))
        """Probability that a sample is told the true features instead of the first prediction, in [0, 1]."""
        zero: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Probability that a sample is told nothing, in [0, 1]; decided by itself, and stronger than `true`."""

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, _ = chosen_features(setting.features, config.features)

    def prepare(self, step: Step) -> Step:
        others = {name: value for name, value in step.condition.context.items() if name != FEATURES}
        first = step.quiet(step.noisy, step.times, replace(step.condition, context=others))
        true = step.features(self.encoder).tokens
        told = self._predicted(first, true)
        draws = step.generator.rand(2)[..., None, None]
        told = torch.where(draws[:, 0] < self.config.true, true.to(told.dtype), told)
        told = torch.where(draws[:, 1] < self.config.zero, 0.0, told)
        return step.asking(condition=replace(step.condition, context={**others, FEATURES: told}))

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        true = step.features(self.encoder).tokens
        return {"dino-forcing": negative_cosine(self._predicted(step.denoised, true), true)}

    def _predicted(self, denoised: Denoised, true: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        """The features that the network predicts, if they are those that it is taught."""
        predicted = denoised.context[FEATURES]
        if predicted.shape != true.shape:
            raise UserError(
                f"loss dino-forcing teaches the features of {self.encoder} ({tuple(true.shape[1:])}), and the backbone "
                f"predicts others ({tuple(predicted.shape[1:])}): set --loss.features and --backbone.features to one "
                "encoder"
            )
        return predicted
