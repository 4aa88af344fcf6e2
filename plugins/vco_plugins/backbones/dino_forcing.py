"""JiT that predicts an encoder's features and is told its own last prediction."""

from dataclasses import replace
from typing import ClassVar

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge

from vco.api import (
    FEATURES,
    BackboneSetting,
    Condition,
    Denoised,
    ReadsFeatures,
    Streams,
    Times,
    UserError,
    chosen_features,
)
from vco_plugins.layers import Tokens, linear, mlp
from vco_plugins.routing import RoutedConfig
from vco_plugins.single_stream import SingleStream


class DinoForcing(SingleStream):
    """JiT that predicts the features of the clean image and is told its own last prediction of them [DINO-Forcing].

    What it is told stands in `Condition.context["features"]`; nothing there means zeros. Each feature token is
    normalised over its channels and joined to the patch at its place by a linear layer. The prediction is an MLP on the
    patches after the last block, and is handed out as `Denoised.context["features"]`: in sampling each branch of
    guidance is told what it has predicted in its last evaluation. Train it with --loss dino-forcing, without which it
    predicts nothing.

    Raises:
        UserError: If the patch does not divide the image, or the encoder's tokens do not lie on the patches' grid.

    Source: Dino Forcing Flow Models: Do Not Denoise What You Can Predict (Ghosh, Degeorge et al.).
    """

    needs_features: ClassVar[bool] = True
    hands_out: ClassVar[tuple[str, ...]] = (FEATURES,)

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, RoutedConfig):
        """What a user may set; `features` names the encoder whose features are predicted, as in the loss."""

        hidden: int = attrs.field(default=2048, validator=ge(1))
        """Width of the hidden layers of the MLP that predicts the features, at least 1."""

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        super().__init__(config, setting)
        name, spec = chosen_features(setting.features, config.features)
        if spec.grid != self.grid:
            raise UserError(
                f"the grid of {name} {spec.grid} is not the patches' grid {self.grid}: change --backbone.patch, or "
                "take --features (or their resolution) of the same grid"
            )
        self.encoder, self.features = name, spec.tokens
        self.join = linear(self.width + spec.tokens[1], self.width)
        self.predict = mlp(self.width, config.hidden, config.hidden, spec.tokens[1])

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        denoised = super().forward(noisy, times, condition, (*taps, self.depth))
        predicted = self.predict(denoised.taps[self.depth].tokens)
        asked = {number: tap for number, tap in denoised.taps.items() if number in taps}
        return replace(denoised, taps=asked, context={FEATURES: predicted})

    def embedded(self, noisy: Streams, condition: Condition) -> Tokens:
        tokens = super().embedded(noisy, condition)
        told = condition.context.get(FEATURES)
        if told is None:
            told = tokens.new_zeros(len(tokens), *self.features)
        normal = F.layer_norm(told.float(), told.shape[-1:])  # of zeros: zeros
        return self.join(torch.cat([tokens, normal.to(tokens.dtype)], dim=-1))
