"""Features first, then pixels."""

import attrs
import torch
from attrs.validators import and_, ge, gt, le, lt
from jaxtyping import Float
from torch import Tensor

from vco.api import PIXELS, Process, Times, UserError
from vco_plugins.times import grid, logit_normal, other_streams, shift, uniform


class Cascaded(Process):
    """Features are denoised first, while the pixels are noise, then pixels given clean features [Latent Forcing].

    A training sample belongs to one of the two phases: only that phase's streams count in the loss. In the pixels'
    phase a tenth of the times is uniform in (0, 0.5] instead of logit-normal. Streams other than pixels and features
    count as features. The mean of a stream's loss runs over the whole batch, so that the share of its phase is part of
    its weight.

    Wants a backbone that is told both times (--backbone.time-embedding separate).

    Raises:
        UserError: If the pixels are the only stream, or from `path` if there is not a step for each phase.

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
        """Mean of logit(t_pixels) in the pixels' phase of training."""
        std: float = attrs.field(default=0.8, validator=gt(0.0))
        """Standard deviation of logit(t_pixels) in the pixels' phase of training, above 0."""
        early_share: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Share of the pixels' phase whose training times are uniform in (0, 0.5], in [0, 1]."""
        features_shift: float = attrs.field(default=1.0, validator=gt(0.0), metadata={"sampling": True})
        """Shift of the features' even sampling times, above 0; below 1 steps are finer near noise (paper's best run:
        0.575)."""
        shift: float = attrs.field(default=1.0, validator=gt(0.0), metadata={"sampling": True})
        """Shift of the pixels' even sampling times, above 0; below 1 steps are finer near noise."""

    def __init__(self, config: Config, *, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.others = other_streams(streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        config = self.config
        # every draw is made for every sample, so that none depends on the outcome of another
        of_features = uniform(batch, generator) <= config.features_share
        features = logit_normal(batch, config.features_mean, config.features_std, generator)
        early = uniform(batch, generator) <= config.early_share
        pixels = logit_normal(batch, config.mean, config.std, generator)
        pixels = torch.where(early, uniform(batch, generator) / 2, pixels)
        features = torch.where(of_features, features, self.given(batch, generator))
        return {PIXELS: pixels.masked_fill(of_features, 0.0), **dict.fromkeys(self.others, features)}

    def given(self, batch: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        """Times of the features that are given in the pixels' phase of training: clean ones."""
        return torch.ones(batch, device=generator.device)

    def weight(self, times: Times) -> Times:
        of_features = (times[PIXELS] == 0).to(times[PIXELS].dtype)  # the pixels' own phase has no time 0
        return {PIXELS: 1 - of_features, **dict.fromkeys(self.others, of_features)}

    def path(self, steps: int) -> Times:
        if steps < 2:
            raise UserError(
                f"a cascaded process needs a step for the features and one for the pixels, but --sample.steps is "
                f"{steps}: set at least 2"
            )
        first = steps // 2
        features, pixels = shift(grid(first), self.config.features_shift), shift(grid(steps - first), self.config.shift)
        return {
            PIXELS: torch.cat([torch.zeros(first, dtype=torch.float64), pixels]),
            **dict.fromkeys(self.others, torch.cat([features, torch.ones(steps - first, dtype=torch.float64)])),
        }


class CascadedNoised(Cascaded):
    """As cascaded, but pixels are trained on features with a little noise, like sampled ones [Latent Forcing].

    Source: Latent Forcing (arXiv 2602.11401), its default.
    """

    @attrs.frozen(kw_only=True)
    class Config(Cascaded.Config):
        """What a user may set."""

        noise: float = attrs.field(default=0.25, validator=and_(ge(0.0), lt(1.0)))
        """Largest share of noise in the given features: their time is uniform in [1 - noise, 1), in [0, 1)."""

    config: Config

    def given(self, batch: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        return 1 - self.config.noise * uniform(batch, generator)
