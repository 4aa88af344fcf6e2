"""ReDi's representation guidance."""

import attrs
from attrs.validators import and_, ge, le
from jaxtyping import Bool, Int
from torch import Tensor

from vco.api import FEATURES, Condition, GuidanceSetting, UserError
from vco_plugins.two_branch import TwoBranchConfig, TwoBranchGuidance


class Representation(TwoBranchGuidance):
    """Guidance towards images that fit their features; the null branch sees zeros instead of them [ReDi].

    v = v(x_t, 0) + scale * (v(x_t, z_t) - v(x_t, 0)), the label being kept in both branches. In training the features
    of a share of the samples are zeroed and their loss is left out. This is the paper's form, per sample and the same
    as in sampling; the published code zeroes the clean features of a whole batch.

    Raises:
        UserError: If the run has no feature stream.

    Source: ReDi (arXiv 2504.16064), representation guidance.
    """

    @attrs.frozen(kw_only=True)
    class Config(TwoBranchConfig):
        """What a user may set."""

        scale: float = attrs.field(default=1.5, validator=ge(0.0), metadata={"sampling": True})
        """Guidance scale of the image, at least 0 (ReDi shows 1.1 to 1.6); 1 turns guidance off."""
        drop: float = attrs.field(default=0.2, validator=and_(ge(0.0), le(1.0)))
        """Probability that a training sample's features are zeroed, in [0, 1]."""

    def __init__(self, config: Config, setting: GuidanceSetting) -> None:
        super().__init__(config, setting)
        if FEATURES not in setting.streams:
            raise UserError(
                f"it needs the stream {FEATURES!r}, but this run has only "
                f"{', '.join(setting.streams)}: choose a backbone that denoises it, such as jit-dual, or --guidance cfg"
            )

    def without(self, labels: Int[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Condition:
        return Condition(labels=labels, nulled={FEATURES: dropped}, supervised={FEATURES: ~dropped})
