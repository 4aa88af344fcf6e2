"""What guidance of two branches has in common: dropout in training, a scale per stream and an interval in sampling."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs.validators import and_, deep_mapping, ge, instance_of, le, optional
from jaxtyping import Bool, Int
from torch import Tensor

from vco.api import IMAGE, Condition, Guidance, GuidanceSetting, Streams, UserError
from vco.flow import guided, in_interval


def _above_low(config: Any, attribute: "attrs.Attribute[float]", value: float) -> None:
    if value <= config.low:
        raise ValueError(f"high ({value}) must be above low ({config.low}); scale=1 turns guidance off")


def _above_own_low(config: Any, attribute: "attrs.Attribute[Mapping[str, float]]", value: Mapping[str, float]) -> None:
    for stream in {**config.stream_low, **value}:
        low, high = config.interval(stream)
        if high <= low:
            raise ValueError(f"stream_high: guidance of {stream} would end at {high}, not above its start ({low})")


@attrs.frozen(kw_only=True)
class TwoBranchConfig(Guidance.Config):
    """What a user may set; common to all guidance of two branches."""

    scale: float = attrs.field(default=1.8, validator=ge(0.0), metadata={"sampling": True})
    """Guidance scale of the image, at least 0; 1 is the conditional branch (V-Co: 1.8 for B and L, 1.5 for H)."""
    feature_scale: float | None = attrs.field(default=None, validator=optional(ge(0.0)), metadata={"sampling": True})
    """Guidance scale of all other streams, at least 0; by default as `scale`."""
    low: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)), metadata={"sampling": True})
    """Guided only at times above this, in [0, 1]; 0 is noise and includes the first step."""
    high: float = attrs.field(default=1.0, validator=[and_(ge(0.0), le(1.0)), _above_low], metadata={"sampling": True})
    """Guided only at times below this, in [0, 1]; 1 is data."""
    stream_low: Mapping[str, float] = attrs.field(
        factory=dict[str, float],
        validator=deep_mapping(instance_of(str), and_(ge(0.0), le(1.0))),
        metadata={"sampling": True},
    )
    """`low` of streams that have another one, as in features=0.06 (Latent Forcing)."""
    stream_high: Mapping[str, float] = attrs.field(
        factory=dict[str, float],
        validator=[deep_mapping(instance_of(str), and_(ge(0.0), le(1.0))), _above_own_low],
        metadata={"sampling": True},
    )
    """`high` of streams that have another one, as in features=0.9."""
    closed: bool = attrs.field(default=False, metadata={"sampling": True})
    """Whether the times `low` and `high` themselves are guided (REPA, REG), or only those between (JiT)."""
    drop: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
    """Probability that a training sample is given as in the null branch, in [0, 1]."""

    def interval(self, stream: str) -> tuple[float, float]:
        """The times between which a stream is guided."""
        return self.stream_low.get(stream, self.low), self.stream_high.get(stream, self.high)


class TwoBranchGuidance(Guidance):
    """Two branches, "conditional" and "null": v = v_null + scale * (v_conditional - v_null) within low < t < high.

    A stream's scale is 1 outside the interval of its own time, and the null branch is evaluated only where some scale
    is not 1. A subclass says what the null branch lacks.

    Raises:
        UserError: If an interval is set for a stream that the run does not have.

    Source: Ho and Salimans (arXiv 2207.12598), eq. 6 with w = scale - 1; Kynkäänniemi et al. (arXiv 2404.07724).
    """

    def __init__(self, config: TwoBranchConfig, setting: GuidanceSetting) -> None:
        super().__init__()
        self.config = config
        self.num_classes = setting.num_classes
        known = ", ".join(setting.streams)
        for option, streams in (("stream-low", config.stream_low), ("stream-high", config.stream_high)):
            if unknown := [name for name in streams if name not in setting.streams]:
                raise UserError(f"--guidance.{option}: this run has no stream {', '.join(unknown)}, only {known}")

    @abstractmethod
    def without(self, labels: Int[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Condition:
        """The condition whose dropped rows are those of the null branch."""

    def condition(self, labels: Int[Tensor, " b"], generator: torch.Generator) -> Condition:
        return self.without(labels, draw_rows(labels, self.config.drop, generator))

    def branches(self, labels: Int[Tensor, " b"], times: Mapping[str, float]) -> dict[str, Condition]:
        branches = {"conditional": Condition(labels=labels)}
        if any(self._scale(stream, t) != 1 for stream, t in times.items()):
            branches["null"] = self.without(labels, torch.ones_like(labels, dtype=torch.bool))
        return branches

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        conditional = velocities["conditional"]
        null = velocities.get("null", conditional)
        return {name: guided(v, null[name], self._scale(name, times[name])) for name, v in conditional.items()}

    def _scale(self, stream: str, t: float) -> float:
        config = self.config
        if not in_interval(t, *config.interval(stream), closed=config.closed):
            return 1.0
        return config.scale if stream == IMAGE or config.feature_scale is None else config.feature_scale


def draw_rows(labels: Int[Tensor, " b"], probability: float, generator: torch.Generator) -> Bool[Tensor, " b"]:
    """Rows of a batch, each drawn by itself with this probability; on the device of the labels."""
    draws = torch.rand(len(labels), generator=generator, device=generator.device)
    return (draws < probability).to(labels.device)
