"""V-Co's structural guidance."""

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import in_
from jaxtyping import Bool, Int
from torch import Tensor, nn

from vco.api import FEATURES, PIXELS, Condition, StreamSpec, UserError
from vco_plugins.interval import IntervalConfig, IntervalGuidance


class Structural(IntervalGuidance):
    """Guidance whose null branch lacks the label and, for the pixels, the features: masked, zeroed or learned [V-Co].

    In training one draw per sample drops both, and the feature loss skips the dropped samples. With the mask, the
    feature stream's own null branch still sees the pixels unless `symmetric` is set.

    Raises:
        UserError: If the run has no feature stream.

    Source: V-Co (arXiv 2603.16792), structural masking with joint dropout; the zeroed and the learned null are rows of
        its ablation. The interval is JiT's (arXiv 2511.13720).
    """

    @attrs.frozen(kw_only=True)
    class Config(IntervalConfig):
        """What a user may set."""

        null: Literal["mask", "zero", "learned"] = attrs.field(
            default="mask", validator=in_(("mask", "zero", "learned"))
        )
        """How the features are hidden: attention to them is blocked, or zeros or a learned token are shown instead."""
        symmetric: bool = False
        """With null=mask: whether the feature stream's queries lose the pixel keys too."""

    def __init__(self, config: Config, *, streams: Mapping[str, StreamSpec], num_classes: int) -> None:
        super().__init__(config, streams=streams, num_classes=num_classes)
        if FEATURES not in streams:
            raise UserError(
                f"guidance structural hides the stream {FEATURES!r}, but this run has only {', '.join(streams)}: "
                "choose a backbone that denoises it, such as jit-dual, or --guidance cfg"
            )
        self.needs_blocking = config.null == "mask"
        if config.null == "learned":
            self.token = nn.Parameter(torch.zeros(streams[FEATURES].shape[-1]))

    def null(self, stream: str, x_t: Tensor) -> Tensor:
        return self.token.expand_as(x_t).to(x_t.dtype) if self.config.null == "learned" else torch.zeros_like(x_t)

    def without(self, labels: Int[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Condition:
        edges = [(PIXELS, FEATURES), (FEATURES, PIXELS)] if self.config.symmetric else [(PIXELS, FEATURES)]
        masked = self.config.null == "mask"
        return Condition(
            labels=labels.masked_fill(dropped, self.num_classes),
            blocked=dict.fromkeys(edges, dropped) if masked else {},
            nulled={} if masked else {FEATURES: dropped},
            supervised={FEATURES: ~dropped},
        )
