"""Features a fixed time ahead of the image."""

import attrs
import torch
from attrs.validators import and_, gt, le
from torch import Tensor

from vco.api import IMAGE, Process, ProcessSetting, Times
from vco_plugins.times import LogitNormalConfig, grid, logit_normal, other_streams


class Offset(Process):
    """The features are always a fixed time ahead of the image: semantics lead the way [Semantic-First Diffusion].

    With a clock s from 0 to 1 + offset, t_features = min(s, 1) and t_image = max(s - offset, 0): features alone, both,
    image alone. In training s / (1 + offset) is logit-normal, and features that are already clean do not count in the
    loss. Streams other than image and features count as features.

    Wants a backbone that is told both times (--backbone.time-embedding separate).

    Raises:
        UserError: If the image is the only stream.

    Source: Semantics Lead the Way (arXiv 2512.04926).
    """

    @attrs.frozen(kw_only=True)
    class Config(LogitNormalConfig):
        """What a user may set; mean and std are those of logit(s / (1 + offset))."""

        offset: float = attrs.field(default=0.3, validator=and_(gt(0.0), le(1.0)))
        """How far the features are ahead, in (0, 1]; at 1 the image starts when the features are clean."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.others = other_streams(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        return self._at(logit_normal(batch, self.config.mean, self.config.std, generator))

    def path(self, steps: int) -> Times:
        return self._at(grid(steps))

    def weight(self, times: Times) -> Times:
        weights = super().weight(times)
        return weights | {name: weights[name].masked_fill(times[name] == 1, 0.0) for name in self.others}

    def _at(self, progress: Tensor) -> Times:
        """Times at a share of the way; the image's are counted from the end, so that they end at exactly 1."""
        whole: float = 1 + self.config.offset
        image = (1 - whole * (1 - progress)).clamp(min=0)
        features = (whole * progress).clamp(max=1)
        return {IMAGE: image, **dict.fromkeys(self.others, features)}
