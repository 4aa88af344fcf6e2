"""ReDi's representation guidance."""

from typing import Literal

import attrs
import torch
from attrs.validators import and_, ge, in_, le
from jaxtyping import Bool, Int
from torch import Tensor

from vco.api import FEATURES, Condition, GuidanceSetting, UserError
from vco_plugins.two_branch import TwoBranchConfig, TwoBranchGuidance, draw_rows


class Representation(TwoBranchGuidance):
    """Guidance towards images that fit their features; the null branch sees zeros instead of them [ReDi].

    v = v(x_t, 0) + scale * (v(x_t, z_t) - v(x_t, 0)), the label being kept in both branches. In training the features
    of a share of the samples are zeroed and their loss is left out. This is the paper's form, per sample and the same
    as in sampling; the published code zeroes the clean features, and those of a whole batch at once: set `hides` and
    `whole_batch`.

    Raises:
        UserError: If the run has no feature stream.

    Source: ReDi (arXiv 2504.16064), representation guidance.
    """

    config: "Config"

    @attrs.frozen(kw_only=True)
    class Config(TwoBranchConfig):
        """What a user may set."""

        scale: float = attrs.field(default=1.5, validator=ge(0.0), metadata={"sampling": True})
        """Guidance scale of the image, at least 0 (ReDi shows 1.1 to 1.6); 1 turns guidance off."""
        drop: float = attrs.field(default=0.2, validator=and_(ge(0.0), le(1.0)))
        """Probability that a training sample's features are zeroed, in [0, 1]."""
        hides: Literal["noisy", "clean"] = attrs.field(default="noisy", validator=in_(("noisy", "clean")))
        """What is zero in training: what the network is shown of the features, as in sampling, or their clean values,
        so that it is shown noise alone (the published code)."""
        whole_batch: bool = False
        """Whether one draw decides for a whole batch (the published code), or one for each sample."""

    def __init__(self, config: Config, setting: GuidanceSetting) -> None:
        super().__init__(config, setting)
        self.nulls_clean = config.hides == "clean"
        if FEATURES not in setting.streams:
            raise UserError(
                f"it needs the stream {FEATURES!r}, but this run has only "
                f"{', '.join(setting.streams)}: choose a backbone that denoises it, such as jit-dual, or --guidance cfg"
            )

    def condition(self, labels: Int[Tensor, " b"], generator: torch.Generator) -> Condition:
        if not self.config.whole_batch:
            return super().condition(labels, generator)
        return self.without(labels, draw_rows(labels[:1], self.config.drop, generator).expand(len(labels)))

    def without(self, labels: Int[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Condition:
        return Condition(labels=labels, nulled={FEATURES: dropped}, supervised={FEATURES: ~dropped})
