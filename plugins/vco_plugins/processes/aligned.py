"""Features that lead the image on one curve, in training and in sampling."""

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor

from vco.api import IMAGE, Process, ProcessSetting, Times
from vco_plugins.times import Draws, along, normal, other_streams, shift, uniform


class Aligned(Process):
    """Both times lie on one curve on which the features lead; a training sample teaches one stream [Latent Forcing].

    t_features = shift(t_image, lead). A training sample belongs to the features' phase or to the image's: that stream's
    time is logit-normal, the other's follows, and only that stream counts in the loss. In sampling steps follow the
    length of the curve. Streams other than image and features count as features.

    Wants a backbone that is told both times (--backbone.time-embedding separate).

    Raises:
        UserError: If the image is the only stream.

    Source: Latent Forcing (arXiv 2602.11401), the aligned variant of its published code.
    """

    @attrs.frozen(kw_only=True)
    class Config(Process.Config):
        """What a user may set."""

        lead: float = attrs.field(default=4.0, validator=gt(0.0))
        """Ratio of the features' signal-to-noise ratio to the image's, above 0; above 1 features lead."""
        features_share: float = attrs.field(default=0.4, validator=and_(gt(0.0), lt(1.0)))
        """Probability that a training sample teaches the features, in (0, 1)."""
        features_mean: float = -1.2
        """Mean of logit(t_features) where the features are taught."""
        features_std: float = attrs.field(default=1.0, validator=gt(0.0))
        """Standard deviation of logit(t_features) where the features are taught, above 0."""
        mean: float = -0.4
        """Mean of logit(t_image) where the image is taught."""
        std: float = attrs.field(default=0.8, validator=gt(0.0))
        """Standard deviation of logit(t_image) where the image is taught, above 0."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.others = other_streams(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        return self.draw(batch, generator)[0]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Times, Times]:
        return self.times(uniform(batch, generator), normal(batch, generator), normal(batch, generator))

    def times(self, phase: Draws, features: Draws, image: Draws) -> tuple[Times, Times]:
        """Training times and weights, made of random numbers.

        Args:
            phase: uniform, decides which stream is taught.
            features: standard normal, for the features' time where they are taught.
            image: standard normal, for the image's time where it is taught.
        """
        config = self.config
        of_features = phase <= config.features_share
        t_features = torch.sigmoid(config.features_mean + config.features_std * features)
        t_image = torch.sigmoid(config.mean + config.std * image)
        led = torch.where(of_features, shift(t_features, 1 / config.lead), t_image)
        leading = torch.where(of_features, t_features, shift(t_image, config.lead))
        weight = of_features.to(led.dtype)
        return self._both(led, leading), self._both(1 - weight, weight)

    def weight(self, times: Times) -> Times:
        """The mean weight of samples with these times, which do not tell which stream they teach."""
        config = self.config
        to_image, to_features = (torch.logit(times[name].double()) for name in (IMAGE, self.others[0]))
        of_features = config.features_share * _density(to_features, config.features_mean, config.features_std)
        of_image = (1 - config.features_share) * _density(to_image, config.mean, config.std)
        share = (of_features / (of_features + of_image)).to(times[IMAGE].dtype)
        return self._both(1 - share, share)

    def path(self, steps: int) -> Times:
        return self._both(*along(steps, self.config.lead))

    def _both(self, image: Tensor, features: Tensor) -> Times:
        """What belongs to the image, and to all other streams."""
        return {IMAGE: image, **dict.fromkeys(self.others, features)}


def _density(x: Draws, mean: float, std: float) -> Draws:
    """The density of a normal law, but for a factor that all of them have."""
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / std
