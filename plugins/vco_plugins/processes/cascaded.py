"""Features first, then the image."""

import attrs
import torch
from attrs.validators import and_, ge, gt, le, lt

from vco.api import IMAGE, Process, ProcessSetting, Times, UserError
from vco_plugins.times import Draws, grid, normal, other_streams, shift, uniform


class Cascaded(Process):
    """Features are denoised first, while the image is noise, then the image given clean features [Latent Forcing].

    A training sample belongs to one of the two phases: only that phase's streams count in the loss. In the image's
    phase a tenth of the times is uniform in (0, 0.5] instead of logit-normal. Streams other than image and features
    count as features. The mean of a stream's loss runs over the whole batch, so that the share of its phase is part of
    its weight.

    Wants a backbone that is told both times (--backbone.time-embedding separate).

    Raises:
        UserError: If the image is the only stream, or from `path` if there is not a step for each phase.

    Source: Latent Forcing (arXiv 2602.11401).
    """

    @attrs.frozen(kw_only=True)
    class Config(Process.Config):
        """What a user may set."""

        features_share: float = attrs.field(default=0.4, validator=and_(gt(0.0), lt(1.0)))
        """Probability that a training sample belongs to the features' phase, in (0, 1)."""
        features_mean: float = -1.2
        """Mean of logit(t_features) in the features' phase of training."""
        features_std: float = attrs.field(default=1.0, validator=gt(0.0))
        """Standard deviation of logit(t_features) in the features' phase of training, above 0."""
        mean: float = -0.4
        """Mean of logit(t_image) in the image's phase of training."""
        std: float = attrs.field(default=0.8, validator=gt(0.0))
        """Standard deviation of logit(t_image) in the image's phase of training, above 0."""
        early_share: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Share of the image's phase whose training times are uniform in (0, 0.5], in [0, 1]."""
        features_shift: float = attrs.field(default=1.0, validator=gt(0.0), metadata={"sampling": True})
        """Shift of the features' even sampling times, above 0; below 1 steps are finer near noise (paper's best run:
        0.575)."""
        shift: float = attrs.field(default=1.0, validator=gt(0.0), metadata={"sampling": True})
        """Shift of the image's even sampling times, above 0; below 1 steps are finer near noise."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.others = other_streams(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        # every draw is made for every sample, so that none depends on the outcome of another
        phase, features = uniform(batch, generator), normal(batch, generator)
        early, image = uniform(batch, generator), normal(batch, generator)
        draws = (phase, features, early, image, uniform(batch, generator))
        return self.times(*draws, given=self.given(batch, generator))

    def times(
        self, phase: Draws, features: Draws, early: Draws, image: Draws, early_time: Draws, given: Draws
    ) -> Times:
        """Training times, made of random numbers.

        Args:
            phase: uniform, decides for a phase.
            features: standard normal, for the features' time in their phase.
            early: uniform, decides for an early time in the image's phase.
            image: standard normal, for the image's time in its phase.
            early_time: uniform, for an early time.
            given: the features' time in the image's phase.
        """
        config = self.config
        of_features = phase <= config.features_share
        t_image = torch.sigmoid(config.mean + config.std * image)
        t_image = torch.where(early <= config.early_share, early_time / 2, t_image)
        t_features = torch.sigmoid(config.features_mean + config.features_std * features)
        t_features = torch.where(of_features, t_features, given)
        return {IMAGE: t_image.masked_fill(of_features, 0.0), **dict.fromkeys(self.others, t_features)}

    def given(self, batch: int, generator: torch.Generator) -> Draws:
        """Times of the features that are given in the image's phase of training: clean ones."""
        return torch.ones(batch, device=generator.device)

    def weight(self, times: Times) -> Times:
        of_features = (times[IMAGE] == 0).to(times[IMAGE].dtype)  # the image's own phase has no time 0
        return {IMAGE: 1 - of_features, **dict.fromkeys(self.others, of_features)}

    def path(self, steps: int) -> Times:
        if steps < 2:
            raise UserError(
                f"a cascaded process needs a step for the features and one for the image, but --sample.steps is "
                f"{steps}: set at least 2"
            )
        first = steps // 2
        features, image = shift(grid(first), self.config.features_shift), shift(grid(steps - first), self.config.shift)
        return {
            IMAGE: torch.cat([torch.zeros(first, dtype=torch.float64), image]),
            **dict.fromkeys(self.others, torch.cat([features, torch.ones(steps - first, dtype=torch.float64)])),
        }


class CascadedNoised(Cascaded):
    """As cascaded, but the image is trained on features with a little noise, like sampled ones [Latent Forcing].

    Source: Latent Forcing (arXiv 2602.11401), its default.
    """

    @attrs.frozen(kw_only=True)
    class Config(Cascaded.Config):
        """What a user may set."""

        noise: float = attrs.field(default=0.25, validator=and_(ge(0.0), lt(1.0)))
        """Largest share of noise in the given features: their time is uniform in [1 - noise, 1), in [0, 1)."""

    config: Config

    def given(self, batch: int, generator: torch.Generator) -> Draws:
        return self.noised(uniform(batch, generator))

    def noised(self, draws: Draws) -> Draws:
        """The given features' times, made of uniform random numbers."""
        return 1 - self.config.noise * draws
