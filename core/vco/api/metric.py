"""The contract of metrics: scores of generated images."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from attrs.validators import instance_of
from jaxtyping import Float, UInt8
from torch import Tensor

from vco.api.component import Component
from vco.api.features import Features, FeatureSpec
from vco.errors import UserError


@attrs.frozen(kw_only=True)
class Score:
    """What a metric has measured."""

    name: str
    """With the network it looks through, as in "FD (digits-cnn)"."""
    value: float
    higher_is_better: bool = False
    protocol: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """Plain data that the value depends on beside the images: numbers of images, settings of the metric."""


@attrs.frozen(kw_only=True, eq=False)
class Moments:
    """Mean and covariance of an encoder's pooled features of real images, of which no more need be known."""

    mean: Float[Tensor, " e"]
    """float64."""
    covariance: Float[Tensor, "e e"]
    """Unbiased (divided by the number of images less one), float64."""
    count: int | None = None
    """Number of images; None where nobody has noted it."""


@attrs.frozen(kw_only=True)
class MetricSetting:
    """What a metric is told of the run."""

    image_shape: tuple[int, int, int]
    """(c, h, w) of the images."""
    num_classes: int
    """Number of classes; 0 where images are scored of which nobody knows it."""
    encoder: str
    """Name of the encoder it looks through; empty where it needs none."""
    features: FeatureSpec | None
    """What that encoder yields."""


class Metric(Component):
    """Compares generated images with real ones. Constructed as `Class(config, MetricSetting)`.

    The core feeds objects batch by batch, each with some of the images: a process with its share, and generated and
    real images perhaps apart. A new object then merges what all of them have gathered, and scores it.
    """

    needs_features: ClassVar[bool] = True
    """Whether it looks at images through an encoder, chosen as in --metric fd=digits-cnn."""
    needs_real: ClassVar[bool] = True
    """Whether it holds generated images against real ones; it is shown none where not."""

    @attrs.frozen(kw_only=True)
    class Config(Component.Config):
        """What a user may set about any metric."""

        encoder: tuple[str, ...] = attrs.field(
            default=(), validator=attrs.validators.deep_iterable(instance_of(str), instance_of(tuple))
        )
        """Encoders it looks through, of those that `vco plugins` lists as features; there is a score for each."""

    @abstractmethod
    def update(self, images: UInt8[Tensor, "b c h w"], features: Features | None, generated: bool) -> None:
        """Takes some more images into account.

        Args:
            images: generated or real images, on the device that the encoder is on.
            features: the encoder's perceptual view of them (`FeatureSource.perceive`); None without an encoder.
            generated: whether they are the images that are scored, or real ones that these are held against.
        """

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """What this process has gathered so far, as tensors; the core sends it to all processes."""

    @abstractmethod
    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Replaces what was gathered by what others have gathered: the `state` of each."""

    @abstractmethod
    def score(self) -> Score:
        """The score of all images so far; raises `UserError` where they are too few."""

    def scores(self) -> Sequence[Score]:
        """All that it measures at once, as precision and recall. Default: its score alone."""
        return [self.score()]

    def moments(self) -> Moments | None:
        """The moments of all real images so far, where they are all that it keeps of them. Default: None."""
        return None

    def hold_against(self, moments: Moments) -> None:
        """Takes real images into account of which only the moments are known; called after `merge`.

        Raises:
            UserError: if it needs the images themselves. Default: always.
        """
        raise UserError("it needs the real images themselves, and not their mean and covariance alone")
