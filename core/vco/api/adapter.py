"""The contract of adapters: from encoder features to the streams that are denoised beside the image."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import attrs
from jaxtyping import Float
from torch import Tensor, nn

from vco.api.component import Component
from vco.api.features import Features, FeatureSpec
from vco.api.streams import Streams, StreamSpec


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """An adapter's answer."""

    value: Streams
    """What is noised and fed to the network."""
    target: Streams
    """What the network's prediction is regressed to; equal to `value`, or detached from it (CoReDi)."""
    losses: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """The adapter's own regularisers, already weighted; they are added to the total."""


@attrs.frozen(kw_only=True)
class AdapterSetting:
    """What an adapter is told of the run."""

    features: Mapping[str, FeatureSpec]
    """Every encoder of the run by its name, in the order of --features; empty where the run needs none."""
    image: StreamSpec
    """The image stream."""


class Adapter(Component, nn.Module):
    """Turns encoder features into denoised streams; may learn, may be fitted once, may add losses.

    Constructed as `Class(config, AdapterSetting)`. One that reads a single encoder lets its `Config` inherit from
    `ReadsFeatures`, and asks `chosen_features(setting.features, config.features)` which one that is.
    """

    needs_stream: ClassVar[bool] = True
    """Whether the run must have a backbone that denoises its streams. If not, the adapter is simply not used where the
    backbone takes none of them."""
    needs_fit: bool = False
    """Whether `fit` must run before training."""

    @abstractmethod
    def specs(self) -> dict[str, StreamSpec]:
        """The streams `forward` yields (usually just "features")."""

    def fit(self, batches: Iterable[tuple[Float[Tensor, "_ ..."], Mapping[str, Features]]]) -> None:
        """Sets buffers or initial weights in one pass over shuffled training data, in float64.

        What it sets may depend on the config and the data alone, not on the batching: it is kept for other seeds.

        Args:
            batches: the image stream of some images, and their features by the name of the encoder.
        """

    @abstractmethod
    def forward(self, features: Mapping[str, Features]) -> Adapted:
        """The streams of one batch; `value` may carry gradients, `target` not where a method stops them."""
