"""Standardised features at the scale of the image stream."""

from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import gt, in_, optional
from jaxtyping import Float
from torch import Tensor

from vco.api import FEATURES, Adapted, Adapter, AdapterSetting, Features, ReadsFeatures, StreamSpec, chosen_features
from vco_plugins.moments import EPS, MeanSquare


class RMS(Adapter):
    """Features standardised per position and channel, or per channel, then scaled to the image stream's RMS [V-Co].

    Mean, variance and the RMS of the image stream are those of the training images, exact up to rounding: RAE's
    running averages remember only the last few batches. Equal RMS makes one time mean the same
    signal-to-noise ratio in both streams.

    Source: V-Co (arXiv 2603.16792), RMS calibration; RAE (arXiv 2510.11690), latent normalisation.
    """

    needs_fit = True

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Adapter.Config):
        """What a user may set."""

        scale: float | None = attrs.field(default=None, validator=optional(gt(0.0)))
        """Factor after standardising, above 0; None measures the RMS of the image stream (V-Co on ImageNet: 0.485)."""
        per: Literal["position", "channel"] = attrs.field(default="position", validator=in_(("position", "channel")))
        """What is standardised: every channel at every position, or every channel over all positions."""

    mean: Tensor
    variance: Tensor
    scale: Tensor

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, spec = chosen_features(setting.features, config.features)
        self.spec = StreamSpec(shape=spec.tokens, grid=spec.grid)
        self.register_buffer("mean", torch.zeros(spec.tokens))
        self.register_buffer("variance", torch.ones(spec.tokens))
        self.register_buffer("scale", torch.tensor(1.0 if config.scale is None else config.scale))

    def specs(self) -> dict[str, StreamSpec]:
        return {FEATURES: self.spec}

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Float[Tensor, "_ ..."], Mapping[str, Features]]]) -> None:
        count, image = 0, MeanSquare()
        mean = squares = torch.zeros_like(self.mean, dtype=torch.float64)
        for images, features in batches:
            image.add(images)
            tokens = features[self.encoder].tokens.double()
            batch_mean = tokens.mean(0)
            delta = batch_mean - mean
            count += len(tokens)
            # merging centred moments, where a difference of raw ones would cancel [Chan et al. 1983]
            weight = len(tokens) / count
            squares = squares + (tokens - batch_mean).square().sum(0) + delta.square() * weight * (count - len(tokens))
            mean = mean + delta * weight
        variance = squares / count
        if self.config.per == "channel":  # within positions, and between them
            variance = variance.mean(0) + mean.var(0, correction=0)
            mean = mean.mean(0)
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        if self.config.scale is None:
            self.scale.copy_(image.root)

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        raw = features[self.encoder].tokens
        tokens = (raw.float() - self.mean) * ((self.variance + EPS).rsqrt() * self.scale)
        tokens = tokens.to(raw.dtype)
        return Adapted(value={FEATURES: tokens}, target={FEATURES: tokens})
