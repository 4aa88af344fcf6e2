"""The encoder's class token as a stream."""

from typing import Final

import attrs

from vco.api import FEATURES, Adapted, Adapter, Features, StreamSpec

CLASS_TOKEN: Final = "class_token"


class ClassToken(Adapter):
    """The encoder's pooled vector as one more token that is denoised, at its own scale [REG].

    The stream "class_token" is [b, 1, e], as raw as the encoder gives it. With `tokens`, the raw patch tokens are
    denoised too.

    Source: Representation Entanglement for Generation (arXiv 2507.01467).
    """

    @attrs.frozen(kw_only=True)
    class Config(Adapter.Config):
        """What a user may set."""

        tokens: bool = False
        """Whether the patch tokens become a stream too."""

    def __init__(self, config: Config, *, features: StreamSpec) -> None:
        super().__init__()
        self.config = config
        self.features = features

    def specs(self) -> dict[str, StreamSpec]:
        specs = {FEATURES: self.features} if self.config.tokens else {}
        return {**specs, CLASS_TOKEN: StreamSpec(shape=(1, self.features.pooled or self.features.shape[-1]))}

    def forward(self, features: Features) -> Adapted:
        streams = {FEATURES: features.tokens} if self.config.tokens else {}
        streams[CLASS_TOKEN] = features.pooled[:, None].to(features.tokens.dtype)
        return Adapted(value=streams, target=streams)
