"""An adapter that is fitted to the training data."""

from collections.abc import Iterable

import attrs
import torch
from attrs.validators import gt
from jaxtyping import Float
from torch import Tensor

from vco.api import FEATURES, Adapted, Adapter, Features, StreamSpec


class Centred(Adapter):
    """Features less their mean over the training data, times a factor [example]."""

    needs_fit: bool = True

    @attrs.frozen(kw_only=True)
    class Config(Adapter.Config):
        """What a user may set."""

        factor: float = attrs.field(default=1.0, validator=gt(0.0))
        """Factor of the centred features, above 0."""

    mean: Tensor

    def __init__(self, config: Config, *, features: StreamSpec) -> None:
        super().__init__()
        self.config = config
        self.features = features
        self.register_buffer("mean", torch.zeros(features.shape[-1]))

    def specs(self) -> dict[str, StreamSpec]:
        """The features, shaped as they come."""
        return {FEATURES: self.features}

    def fit(self, batches: Iterable[tuple[Float[Tensor, "_ c h w"], Features]]) -> None:
        """Sets the mean of every channel over all tokens."""
        total, count = torch.zeros_like(self.mean, dtype=torch.float64), 0
        for _, features in batches:
            tokens = features.tokens.double().flatten(0, 1)
            total += tokens.sum(0)
            count += len(tokens)
        self.mean.copy_(total / count)

    def forward(self, features: Features) -> Adapted:
        """One stream, whose target is its value."""
        tokens = (features.tokens - self.mean.to(features.tokens.dtype)) * self.config.factor
        return Adapted(value={FEATURES: tokens}, target={FEATURES: tokens})
