"""An adapter that is fitted to the training data."""

from collections.abc import Iterable, Mapping

import attrs
import torch
from attrs.validators import gt
from jaxtyping import Float
from torch import Tensor

from vco.api import FEATURES, Adapted, Adapter, AdapterSetting, Features, ReadsFeatures, StreamSpec, chosen_features


class Centred(Adapter):
    """An encoder's features less their mean over the training data, times a factor [example]."""

    needs_fit: bool = True

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Adapter.Config):
        """What a user may set."""

        factor: float = attrs.field(default=1.0, validator=gt(0.0))
        """Factor of the centred features, above 0."""

    mean: Tensor

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, spec = chosen_features(setting.features, config.features)
        self.stream = StreamSpec(shape=spec.tokens, grid=spec.grid)
        self.register_buffer("mean", torch.zeros(spec.tokens[1]))

    def specs(self) -> dict[str, StreamSpec]:
        """The features, shaped as they come."""
        return {FEATURES: self.stream}

    def fit(self, batches: Iterable[tuple[Float[Tensor, "_ ..."], Mapping[str, Features]]]) -> None:
        """Sets the mean of every channel over all tokens."""
        total, count = torch.zeros_like(self.mean, dtype=torch.float64), 0
        for _, features in batches:
            tokens = features[self.encoder].tokens.double().flatten(0, 1)
            total += tokens.sum(0)
            count += len(tokens)
        self.mean.copy_(total / count)

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        """One stream, whose target is its value."""
        raw = features[self.encoder].tokens
        tokens = (raw - self.mean.to(raw.dtype)) * self.config.factor
        return Adapted(value={FEATURES: tokens}, target={FEATURES: tokens})
