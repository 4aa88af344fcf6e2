"""A fixed linear projection of the features."""

from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import ge, in_
from jaxtyping import Float
from torch import Tensor

from vco.api import (
    FEATURES,
    Adapted,
    Adapter,
    AdapterSetting,
    Features,
    ReadsFeatures,
    StreamSpec,
    UserError,
    chosen_features,
)
from vco_plugins.moments import EPS, Covariance, MeanSquare, principal
from vco_plugins.stream_grid import PlacedConfig, placed, placed_spec


class PCA(Adapter):
    """The features' first principal components, after each channel was standardised [ReDi].

    Fitted once, exactly and in float64, to shuffled training images; the published fit sees unshuffled ones. The
    components keep their standard deviations (about 4 for DINOv2-B) unless `rescale` says otherwise: the larger the
    stream, the earlier its noise is overcome, and the more its loss weighs. With unit variance this is the control for
    CoReDi, whose batch norm does the same.

    Raises:
        UserError: If there are more `channels` than the features have.

    Source: ReDi (arXiv 2504.16064), whose pixels are VAE latents.
    """

    needs_fit = True

    @attrs.frozen(kw_only=True)
    class Config(PlacedConfig, ReadsFeatures, Adapter.Config):
        """What a user may set."""

        channels: int = attrs.field(default=8, validator=ge(1))
        """Number of components r, the width of the stream, at least 1."""
        rescale: Literal["none", "unit-variance", "image-rms"] = attrs.field(
            default="none", validator=in_(("none", "unit-variance", "image-rms"))
        )
        """none: as in ReDi; unit-variance: each component; image-rms: all by one factor, to the RMS of the image."""

    mean: Tensor
    projection: Tensor

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        super().__init__()
        self.encoder, spec = chosen_features(setting.features, config.features)
        width = spec.tokens[1]
        if config.channels > width:
            raise UserError(
                f"--adapter.channels {config.channels}: the features have {width} channels; choose at most that many"
            )
        self.config = config
        self.grid, self.spec = spec.grid, placed_spec(config, spec, config.channels, setting)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.eye(width, config.channels))

    def specs(self) -> dict[str, StreamSpec]:
        return {FEATURES: self.spec}

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Float[Tensor, "_ ..."], Mapping[str, Features]]]) -> None:
        statistics, image = Covariance(len(self.mean), self.mean.device), MeanSquare()
        for images, features in batches:
            statistics.add(features[self.encoder].tokens)
            image.add(images)
        inverse_std = statistics.covariance.diagonal().clamp_min(EPS).rsqrt()
        # the covariance of standardised channels, without a second pass
        covariance = statistics.covariance * inverse_std[:, None] * inverse_std
        variances, directions = principal(covariance, self.config.channels)
        if self.config.rescale == "unit-variance":
            directions = directions * (variances + EPS).rsqrt()
        if self.config.rescale == "image-rms":
            directions = directions * image.root / (variances.mean() + EPS).sqrt()
        self.mean.copy_(statistics.mean)
        self.projection.copy_(inverse_std[:, None] * directions)

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        tokens = features[self.encoder].tokens
        with torch.autocast(tokens.device.type, enabled=False):
            stream = (tokens.float() - self.mean) @ self.projection
            stream = placed(stream, self.grid, self.spec)
        stream = stream.to(tokens.dtype)
        return Adapted(value={FEATURES: stream}, target={FEATURES: stream})
