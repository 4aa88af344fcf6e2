"""V-Co's structural guidance."""

from typing import Any, Literal

import attrs
import torch
from attrs.validators import and_, ge, in_, le
from jaxtyping import Bool, Int
from torch import Tensor, nn

from vco.api import FEATURES, IMAGE, Condition, GuidanceSetting, UserError
from vco_plugins.two_branch import TwoBranchConfig, TwoBranchGuidance, draw_rows


def _was_trained(config: Any, attribute: "attrs.Attribute[bool]", value: bool) -> None:
    if value and not config.drop_label:
        raise ValueError(
            "label_only needs drop_label above 0: otherwise no training sample lacks the label and shows the features"
        )


class Structural(TwoBranchGuidance):
    """Guidance whose null branch lacks the label and, for the image, the features: masked, zeroed or learned [V-Co].

    In training one draw per sample (`drop`) hides both. With `drop_label` and `drop_features` each may also be hidden
    by a draw of its own, as in some of V-Co's ablations. The features' loss leaves out the samples whose features are
    hidden. With the mask, the feature stream's own null branch still sees the image unless `symmetric` is set.

    Raises:
        UserError: If the run has no feature stream.

    Source: V-Co (arXiv 2603.16792), structural masking with joint dropout; the other null branches and the independent
        draws are those of its ablation. The interval is JiT's (arXiv 2511.13720).
    """

    @attrs.frozen(kw_only=True)
    class Config(TwoBranchConfig):
        """What a user may set."""

        drop: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Probability that a training sample lacks label and features together, in [0, 1]."""
        drop_label: float = attrs.field(default=0.0, validator=and_(ge(0.0), le(1.0)))
        """Probability of a draw of its own, beside `drop`, that a training sample lacks the label, in [0, 1]."""
        drop_features: float = attrs.field(default=0.0, validator=and_(ge(0.0), le(1.0)))
        """Probability of a draw of its own, beside `drop`, that a training sample lacks the features, in [0, 1]."""
        null: Literal["mask", "zero", "learned"] = attrs.field(
            default="mask", validator=in_(("mask", "zero", "learned"))
        )
        """How the features are hidden: attention to them is blocked, or zeros or a learned token are shown instead."""
        symmetric: bool = False
        """With null=mask: whether the feature stream's queries lose the image's keys too."""
        label_only: bool = attrs.field(default=False, validator=_was_trained, metadata={"sampling": True})
        """Whether the null branch of sampling lacks the label alone and sees the features; needs `drop_label`."""

    def __init__(self, config: Config, setting: GuidanceSetting) -> None:
        super().__init__(config, setting)
        if FEATURES not in setting.streams:
            raise UserError(
                f"it hides the stream {FEATURES!r}, but this run has only "
                f"{', '.join(setting.streams)}: choose a backbone that denoises it, such as jit-dual, or --guidance cfg"
            )
        self.needs_blocking = config.null == "mask"
        if config.null == "learned":
            self.token = nn.Parameter(torch.zeros(setting.streams[FEATURES].shape[-1]))

    def null(self, stream: str, x_t: Tensor) -> Tensor:
        return self.token.expand_as(x_t).to(x_t.dtype) if self.config.null == "learned" else torch.zeros_like(x_t)

    def condition(self, labels: Int[Tensor, " b"], generator: torch.Generator) -> Condition:
        both = draw_rows(labels, self.config.drop, generator)
        no_label = both | draw_rows(labels, self.config.drop_label, generator)
        no_features = both | draw_rows(labels, self.config.drop_features, generator)
        return self._hiding(labels, no_label, no_features)

    def without(self, labels: Int[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Condition:
        if self.config.label_only:
            return Condition(labels=labels.masked_fill(dropped, self.num_classes))
        return self._hiding(labels, dropped, dropped)

    def _hiding(
        self, labels: Int[Tensor, " b"], no_label: Bool[Tensor, " b"], no_features: Bool[Tensor, " b"]
    ) -> Condition:
        """The condition in which some rows lack the label and some the features."""
        edges = [(IMAGE, FEATURES), (FEATURES, IMAGE)] if self.config.symmetric else [(IMAGE, FEATURES)]
        masked = self.config.null == "mask"
        return Condition(
            labels=labels.masked_fill(no_label, self.num_classes),
            blocked=dict.fromkeys(edges, no_features) if masked else {},
            nulled={} if masked else {FEATURES: no_features},
            supervised={FEATURES: ~no_features},
        )
