"""Features normalised over the tokens of each image."""

from collections.abc import Mapping

import attrs
from attrs.validators import and_, ge, gt, le

from vco.api import FEATURES, Adapted, Adapter, AdapterSetting, Features, ReadsFeatures, StreamSpec, chosen_features
from vco_plugins.spatial import spatial_norm


class SpatialNorm(Adapter):
    """Features standardised over the tokens of each image, which stresses where they differ [iREPA].

    What an image's tokens have in common is removed up to a share 1 - alpha. Nothing is fitted.

    Source: iREPA (arXiv 2512.10794), which normalises the target of its loss in this way; as a stream it is ours.
    """

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Adapter.Config):
        """What a user may set."""

        alpha: float = attrs.field(default=0.8, validator=and_(ge(0.0), le(1.0)))
        """Share of the spatial mean that is removed, in [0, 1]."""
        scale: float = attrs.field(default=1.0, validator=gt(0.0))
        """Standard deviation of each channel over an image's tokens, above 0."""

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, spec = chosen_features(setting.features, config.features)
        self.spec = StreamSpec(shape=spec.tokens, grid=spec.grid)

    def specs(self) -> dict[str, StreamSpec]:
        return {FEATURES: self.spec}

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        raw = features[self.encoder].tokens
        tokens = spatial_norm(raw.float(), self.config.alpha) * self.config.scale
        tokens = tokens.to(raw.dtype)
        return Adapted(value={FEATURES: tokens}, target={FEATURES: tokens})
