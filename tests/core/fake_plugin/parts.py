"""Components whose configs hold every supported type."""

from collections.abc import Mapping
from typing import Literal, TypeVar

import attrs
from attrs.validators import ge, gt

from vco.api import Adapter, Backbone, Codec, Data, FeatureSource, Guidance, Loss, Metric, Optimizer, Process, Solver

T = TypeVar("T", bound=type)


def concrete(cls: T) -> T:
    """Nothing here is ever run, so the abstract methods may stay empty."""
    cls.__abstractmethods__ = frozenset()
    return cls


def _heads_divide_width(config: "Net.Config", attribute: "attrs.Attribute[int]", value: int) -> None:
    if value % config.heads:
        raise ValueError(f"{attribute.name} ({value}) must be divisible by heads ({config.heads})")


@concrete
class Net(Backbone):
    """A network with every type of option [nobody].

    More text that no listing shows.
    """

    @attrs.frozen(kw_only=True)
    class Config(Backbone.Config):
        """What a user may set."""

        depth: int = attrs.field(default=2, validator=ge(1))
        """Number of blocks, at least 1 (100% of them)."""
        width: int = attrs.field(default=12, validator=_heads_divide_width)
        """Token width."""
        heads: int = attrs.field(default=4, validator=ge(1))
        drop_rate: float = attrs.field(default=0.0, validator=ge(0.0))
        """Probability, in [0, 1]."""
        mode: Literal["soft", "hard"] = "soft"
        """How."""
        gate: float | None = None
        """A cosine, or none."""
        stages: tuple[int, ...] = ()
        """Any number of them."""
        span: tuple[float, float] = (0.1, 1.0)
        """From, to."""
        label: str = ""
        """Free text."""
        mixed: bool = False
        """Whether."""
        shares: Mapping[str, float] = attrs.field(factory=dict)
        """Share of each stream."""


@concrete
class OtherNet(Backbone):
    """Another network."""

    @attrs.frozen(kw_only=True)
    class Config(Backbone.Config):
        """What a user may set."""

        layers: int = attrs.field(default=3, validator=ge(1))
        """Number of layers."""


@concrete
class Plain(Codec):
    """A codec."""


@concrete
class Folded(Codec):
    """Another codec."""


@concrete
class Eyes(FeatureSource):
    """An encoder."""

    @attrs.frozen(kw_only=True)
    class Config(FeatureSource.Config):
        """What a user may set."""

        weights: str = ""
        """Where its weights are."""


@concrete
class Ears(FeatureSource):
    """Another encoder."""

    @attrs.frozen(kw_only=True)
    class Config(FeatureSource.Config):
        """What a user may set."""

        weights: str = ""
        """Where its weights are."""
        loudness: float = 1.0
        """How loud."""


@concrete
class NoAdapter(Adapter):
    """An adapter."""


@concrete
class Near(Loss):
    """A loss."""

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        tau: float = attrs.field(default=1.0, validator=gt(0.0))
        """Temperature, above 0."""


@concrete
class FarOff(Loss):
    """Another loss."""


@concrete
class Free(Guidance):
    """Guidance."""


@concrete
class Flow(Process):
    """A process."""


@concrete
class Steps(Solver):
    """A solver."""


@concrete
class Descent(Optimizer):
    """An optimizer."""

    @attrs.frozen(kw_only=True)
    class Config(Optimizer.Config):
        """What a user may set."""

        betas: tuple[float, float] = (0.9, 0.95)
        """Decay rates."""
        weight_decay: float = attrs.field(default=0.0, validator=ge(0.0))
        """Weight decay, at least 0."""


@concrete
class Apart(Metric):
    """A metric."""

    @attrs.frozen(kw_only=True)
    class Config(Metric.Config):
        """What a user may set."""

        power: float = 1.0
        """Of the distance."""


@concrete
class Count(Metric):
    """A metric without an encoder."""

    needs_features = False


@concrete
class Dots(Data):
    """A data set."""
