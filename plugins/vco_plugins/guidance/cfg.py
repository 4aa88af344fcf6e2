"""Classifier-free guidance."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs.validators import and_, ge, le, optional
from jaxtyping import Int
from torch import Tensor

from vco.api import PIXELS, Condition, Guidance, Streams
from vco.flow import guided, in_interval


def _above_low(config: Any, attribute: "attrs.Attribute[float]", value: float) -> None:
    if value <= config.low:
        raise ValueError(f"high ({value}) must be above low ({config.low}); scale=1 turns guidance off")


class CFG(Guidance):
    """Classifier-free guidance within a time interval; the null branch lacks the label [Ho & Salimans].

    Source: Ho and Salimans (arXiv 2207.12598), eq. 6 with w = scale - 1; the interval is that of
        Kynkäänniemi et al. (arXiv 2404.07724).
    """

    @attrs.frozen(kw_only=True)
    class Config(Guidance.Config):
        """What a user may set."""

        scale: float = attrs.field(default=1.8, validator=ge(0.0))
        """Guidance scale of the pixels, at least 0; 1 is the conditional model, 0 the unconditional one."""
        feature_scale: float | None = attrs.field(default=None, validator=optional(ge(0.0)))
        """Guidance scale of all other streams, at least 0; by default as `scale`."""
        low: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Guided only at times above this, in [0, 1]; 0 is noise and includes the first step."""
        high: float = attrs.field(default=1.0, validator=[and_(ge(0.0), le(1.0)), _above_low])
        """Guided only at times below this, in [0, 1]; 1 is data."""
        drop: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Probability that a training sample loses its label, in [0, 1]."""

    def __init__(self, config: Config, *, streams: tuple[str, ...], num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes

    def condition(self, labels: Int[Tensor, " b"], generator: torch.Generator) -> Condition:
        dropped = torch.rand(len(labels), generator=generator, device=generator.device) < self.config.drop
        return Condition(labels=labels.masked_fill(dropped.to(labels.device), self.num_classes))

    def branches(self, labels: Int[Tensor, " b"], times: Mapping[str, float]) -> dict[str, Condition]:
        branches = {"conditional": Condition(labels=labels)}
        if any(self._scale(name, t) != 1 for name, t in times.items()):
            branches["null"] = Condition(labels=torch.full_like(labels, self.num_classes))
        return branches

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        conditional = velocities["conditional"]
        null = velocities.get("null", conditional)
        return {name: guided(v, null[name], self._scale(name, times[name])) for name, v in conditional.items()}

    def _scale(self, stream: str, t: float) -> float:
        """The stream's guidance scale at this time; 1 outside the interval."""
        config = self.config
        if not in_interval(t, config.low, config.high):
            return 1.0
        return config.scale if stream == PIXELS or config.feature_scale is None else config.feature_scale
