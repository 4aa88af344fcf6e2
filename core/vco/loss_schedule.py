"""When a loss counts: at which steps, and at which noise levels. The options that all losses share."""

from typing import Any

import attrs
import torch
from attrs.validators import and_, ge, le, lt, optional
from jaxtyping import Bool, Float
from torch import Tensor


def _above_low(schedule: Any, attribute: "attrs.Attribute[float]", value: float) -> None:
    if value <= schedule.t_low:
        raise ValueError(f"t_high ({value}) must be above t_low ({schedule.t_low})")


@attrs.frozen(kw_only=True)
class LossSchedule:
    """What a user may set about any loss."""

    weight: float = attrs.field(default=1.0, validator=ge(0.0))
    """Factor of this loss in the total, at least 0."""
    warmup_steps: int = attrs.field(default=0, validator=ge(0))
    """Steps over which the weight grows linearly from 0."""
    stop_after: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Steps after which the loss is off and costs nothing, as in HASTE (arXiv 2505.16792); by default never."""
    t_low: float = attrs.field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
    """Only samples whose image time is at least this count, in [0, 1); 0 is noise."""
    t_high: float = attrs.field(default=1.0, validator=[le(1.0), _above_low])
    """Only samples whose image time is at most this count, in (t_low, 1]; 1 is data."""

    def factor(self, step: int) -> float | None:
        """Factor of the loss in the total after `step` steps; None where the loss is off."""
        if self.stop_after is not None and step >= self.stop_after:
            return None
        return self.weight * min(1.0, (step + 1) / max(self.warmup_steps, 1))

    def sample_weights(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Factor of each sample of a whole batch: 0 outside the interval, elsewhere such that a mean runs over those.

        All are 0 if none lies inside.
        """
        return mean_over((t >= self.t_low) & (t <= self.t_high))


def mean_over(kept: Bool[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Factors that turn a mean over all rows into a mean over the kept ones, and 0 if there are none."""
    rows = kept.float()
    return rows / torch.clamp_min(rows.mean(), 1e-12)
