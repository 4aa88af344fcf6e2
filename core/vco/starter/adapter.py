"""The adapter `my-adapter`: what of the encoder's features is denoised, beside the image.

The contract is `vco.api.Adapter`. Tokens are [b, n, d]: n patches in row-major order, d channels. A run may have
several encoders; this adapter reads one of them, which the option `features` names.
"""

from collections.abc import Iterable, Mapping

import attrs
import torch
from attrs.validators import gt
from jaxtyping import Float
from torch import Tensor

from vco.api import FEATURES, Adapted, Adapter, AdapterSetting, Features, ReadsFeatures, StreamSpec, chosen_features


class MyAdapter(Adapter):
    """Features standardised channel by channel, with moments that are fitted to the training data once."""

    needs_fit: bool = True

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Adapter.Config):
        """What a user may set."""

        scale: float = attrs.field(default=1.0, validator=gt(0.0))
        """Standard deviation of each channel afterwards, above 0; the larger, the earlier noise is overcome."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        """What `fit` finds goes into buffers, what is learned into parameters: both are saved with the run."""
        super().__init__()
        self.config = config
        self.encoder, spec = chosen_features(setting.features, config.features)
        self.stream = StreamSpec(shape=spec.tokens, grid=spec.grid)
        self.register_buffer("mean", torch.zeros(spec.tokens[1]))
        self.register_buffer("std", torch.ones(spec.tokens[1]))

    def specs(self) -> dict[str, StreamSpec]:
        """The streams of `forward`, known before any data is read: here the features, shaped as they come."""
        return {FEATURES: self.stream}

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Float[Tensor, "_ ..."], Mapping[str, Features]]]) -> None:
        """Reads (image stream, features) once; sums in float64, so that the order of the batches does not show."""
        count = 0
        total = squares = torch.zeros_like(self.mean, dtype=torch.float64)
        for _, features in batches:
            tokens = features[self.encoder].tokens.double().flatten(0, 1)
            count += len(tokens)
            total = total + tokens.sum(0)
            squares = squares + tokens.square().sum(0)
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((squares / count - mean.square()).clamp(min=1e-6).sqrt())

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        """Value is what is noised, target what the network's prediction is compared with.

        An adapter that learns detaches its target, as it could make that trivial otherwise.
        """
        raw = features[self.encoder].tokens
        tokens = ((raw.float() - self.mean) / self.std * self.config.scale).to(raw.dtype)
        return Adapted(value={FEATURES: tokens}, target={FEATURES: tokens})
