"""One time for all streams, shifted for the features."""

import attrs
import torch
from attrs.validators import gt

from vco.api import IMAGE, Process, ProcessSetting, Times
from vco_plugins.times import LogitNormalConfig, grid, logit_normal, other_streams, shift


class Shifted(Process):
    """The features' time is the image's with another signal-to-noise ratio, as if they were rescaled [V-Co].

    t_features = shift * t / (1 + (shift - 1) * t). Features at unit scale whose time is shifted by the image's
    root mean square are as noisy as features that an adapter has scaled to it. Streams other than image and features
    count as features. Each stream's velocity has its own time in the denominator; the published code divides the
    prediction by 1 - t_image and the target by 1 - t_features.

    Raises:
        UserError: If the image is the only stream.

    Source: V-Co (arXiv 2603.16792), the alternative to RMS calibration in its ablation.
    """

    @attrs.frozen(kw_only=True)
    class Config(LogitNormalConfig):
        """What a user may set; mean and std are those of the image's time."""

        shift: float = attrs.field(default=0.485, validator=gt(0.0))
        """Ratio of the features' signal-to-noise ratio to the image's, above 0; below 1 the features lag (0.485 is the
        root mean square of ImageNet's pixels)."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.others = other_streams(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        return self._all(logit_normal(batch, self.config.mean, self.config.std, generator))

    def path(self, steps: int) -> Times:
        return self._all(grid(steps))

    def _all(self, t: torch.Tensor) -> Times:
        return {IMAGE: t, **dict.fromkeys(self.others, shift(t, self.config.shift))}
