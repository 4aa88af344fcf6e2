"""No adapter."""

from typing import ClassVar

from vco.api import FEATURES, Adapted, Adapter, Features, StreamSpec


class Identity(Adapter):
    """Raw tokens, unchanged; idle where the backbone denoises no feature stream."""

    needs_stream: ClassVar[bool] = False

    def __init__(self, config: Adapter.Config, *, features: StreamSpec) -> None:
        super().__init__()
        self.config = config
        self.features = features

    def specs(self) -> dict[str, StreamSpec]:
        return {FEATURES: self.features}

    def forward(self, features: Features) -> Adapted:
        return Adapted(value={FEATURES: features.tokens}, target={FEATURES: features.tokens})
