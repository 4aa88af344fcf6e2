"""V-Co's structural guidance."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import and_, ge, le, optional
from jaxtyping import Bool, Int
from torch import Tensor

from vco.api import FEATURES, PIXELS, Condition, Guidance, Streams, UserError
from vco.flow import guided, in_interval


def _above_low(config: Any, attribute: "attrs.Attribute[float]", value: float) -> None:
    if value <= config.low:
        raise ValueError(f"high ({value}) must be above low ({config.low}); scale=1 turns guidance off")


class Structural(Guidance):
    """Guidance whose null branch lacks the label and masks the features from the pixels [V-Co].

    In training one draw per sample drops both, and the feature loss skips the dropped samples. The feature
    stream's own null branch still sees the pixels unless `symmetric` is set.

    Raises:
        UserError: If the run has no feature stream.

    Source: V-Co (arXiv 2603.16792), structural masking with joint dropout; interval as in JiT (arXiv
        2511.13720).
    """

    needs_blocking: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(Guidance.Config):
        """What a user may set."""

        scale: float = attrs.field(default=1.8, validator=ge(0.0))
        """Guidance scale of the pixels, at least 0; 1 guides nothing (V-Co: 1.8 for B and L, 1.5 for H)."""
        feature_scale: float | None = attrs.field(default=None, validator=optional(ge(0.0)))
        """Guidance scale of all other streams, at least 0; by default as `scale`."""
        low: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Guided only at times above this, in [0, 1]; 0 is noise and includes the first step."""
        high: float = attrs.field(default=1.0, validator=[and_(ge(0.0), le(1.0)), _above_low])
        """Guided only at times below this, in [0, 1]; 1 is data."""
        drop: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Probability that a training sample loses its label and its feature keys together, in [0, 1]."""
        symmetric: bool = False
        """Whether the feature stream's queries lose the pixel keys too."""

    def __init__(self, config: Config, *, streams: tuple[str, ...], num_classes: int) -> None:
        super().__init__()
        if FEATURES not in streams:
            raise UserError(
                f"--guidance structural hides the stream {FEATURES!r}, but the run has only {list(streams)}: "
                "choose a backbone that denoises it, such as jit-dual, or --guidance cfg"
            )
        self.config = config
        self.num_classes = num_classes

    def condition(self, labels: Int[Tensor, " b"], generator: torch.Generator) -> Condition:
        draws = torch.rand(len(labels), generator=generator, device=generator.device)
        dropped = (draws < self.config.drop).to(labels.device)
        return replace(self._without(labels, dropped), supervised={FEATURES: ~dropped})

    def branches(self, labels: Int[Tensor, " b"], times: Mapping[str, float]) -> dict[str, Condition]:
        branches = {"conditional": Condition(labels=labels)}
        if any(self._scale(name, t) != 1 for name, t in times.items()):
            branches["null"] = self._without(labels, torch.ones_like(labels, dtype=torch.bool))
        return branches

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        conditional = velocities["conditional"]
        null = velocities.get("null", conditional)
        return {name: guided(v, null[name], self._scale(name, times[name])) for name, v in conditional.items()}

    def _without(self, labels: Int[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Condition:
        """The condition whose dropped rows have neither label nor (for the pixels) features."""
        edges = [(PIXELS, FEATURES), (FEATURES, PIXELS)] if self.config.symmetric else [(PIXELS, FEATURES)]
        return Condition(labels=labels.masked_fill(dropped, self.num_classes), blocked=dict.fromkeys(edges, dropped))

    def _scale(self, stream: str, t: float) -> float:
        """The stream's guidance scale at this time; 1 outside the interval."""
        config = self.config
        if not in_interval(t, config.low, config.high):
            return 1.0
        return config.scale if stream == PIXELS or config.feature_scale is None else config.feature_scale
