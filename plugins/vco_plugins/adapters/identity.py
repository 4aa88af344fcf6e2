"""No adapter."""

from collections.abc import Mapping
from typing import ClassVar

import attrs

from vco.api import FEATURES, Adapted, Adapter, AdapterSetting, Features, ReadsFeatures, StreamSpec, chosen_features


class Identity(Adapter):
    """Raw tokens, unchanged; idle where the backbone denoises no feature stream, or the run has no encoder."""

    needs_stream: ClassVar[bool] = False

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Adapter.Config):
        """What a user may set."""

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        super().__init__()
        self.config = config
        self.idle = not setting.features
        if not self.idle:
            self.encoder, spec = chosen_features(setting.features, config.features)
            self.spec = StreamSpec(shape=spec.tokens, grid=spec.grid)

    def specs(self) -> dict[str, StreamSpec]:
        return {} if self.idle else {FEATURES: self.spec}

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        streams = {} if self.idle else {FEATURES: features[self.encoder].tokens}
        return Adapted(value=streams, target=streams)
