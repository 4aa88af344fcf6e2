"""Autoguidance: away from what a weaker model does."""

from collections.abc import Mapping

import attrs
from attrs.validators import ge
from jaxtyping import Bool, Int
from torch import Tensor

from vco.api import Condition, GuidanceSetting, Streams
from vco_plugins.two_branch import TwoBranchConfig, TwoBranchGuidance


class Autoguidance(TwoBranchGuidance):
    """Guidance away from a weaker model: an earlier, smaller or shorter run takes the null branch [Karras et al.].

    v = v_weak + scale * (v - v_weak) within the interval. The weak model is the EMA model of another run of the same
    data, whose streams this run has too; a stream that the weak model lacks is not guided.

    Source: Karras et al. (arXiv 2406.02507); Latent Forcing (arXiv 2602.11401) takes a small model without labels.
    """

    @attrs.frozen(kw_only=True)
    class Config(TwoBranchConfig):
        """What a user may set."""

        run: str = attrs.field(default="", metadata={"sampling": True})
        """Folder of the finished run with the weak model; always needed."""
        label: bool = attrs.field(default=True, metadata={"sampling": True})
        """Whether the weak model is told the label; without, its run must have dropped labels."""
        scale: float = attrs.field(default=1.5, validator=ge(0.0), metadata={"sampling": True})
        """Guidance scale of the image, at least 0 (Latent Forcing: 1.5); 1 turns guidance off."""

    def __init__(self, config: Config, setting: GuidanceSetting) -> None:
        super().__init__(config, setting)
        self.weak_run = config.run

    def without(self, labels: Int[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Condition:
        return Condition(labels=labels.masked_fill(dropped, self.num_classes))

    def branches(self, labels: Int[Tensor, " b"], times: Mapping[str, float]) -> dict[str, Condition]:
        branches = super().branches(labels, times)
        if "null" in branches:
            null = branches.pop("null")
            branches["weak"] = branches["conditional"] if self.config.label else null
        return branches

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        conditional = velocities["conditional"]
        null = {**conditional, **velocities.get("weak", {})}
        return super().combine({"conditional": conditional, "null": null}, times)
