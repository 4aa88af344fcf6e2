"""The encoder's class token as a stream."""

from collections.abc import Mapping
from typing import Final

import attrs

from vco.api import FEATURES, Adapted, Adapter, AdapterSetting, Features, ReadsFeatures, StreamSpec, chosen_features

CLASS_TOKEN: Final = "class_token"


class ClassToken(Adapter):
    """The encoder's pooled vector as one more token that is denoised, at its own scale [REG].

    The stream "class_token" is [b, 1, e], as raw as the encoder gives it. With `tokens`, the raw patch tokens are
    denoised too.

    Source: Representation Entanglement for Generation (arXiv 2507.01467).
    """

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Adapter.Config):
        """What a user may set."""

        tokens: bool = False
        """Whether the patch tokens become a stream too."""

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, spec = chosen_features(setting.features, config.features)
        self.token_spec = StreamSpec(shape=spec.tokens, grid=spec.grid)
        self.class_token_spec = StreamSpec(shape=(1, spec.pooled))

    def specs(self) -> dict[str, StreamSpec]:
        specs = {FEATURES: self.token_spec} if self.config.tokens else {}
        return {**specs, CLASS_TOKEN: self.class_token_spec}

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        read = features[self.encoder]
        streams = {FEATURES: read.tokens} if self.config.tokens else {}
        streams[CLASS_TOKEN] = read.pooled[:, None].to(read.tokens.dtype)
        return Adapted(value=streams, target=streams)
