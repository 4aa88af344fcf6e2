"""Autoguidance: away from what a weaker model does."""

from collections.abc import Mapping
from typing import Final, Literal

import attrs
from attrs.validators import ge, in_
from jaxtyping import Bool, Int
from torch import Tensor

from vco.api import FEATURES, Condition, GuidanceSetting, Streams
from vco_plugins.two_branch import TwoBranchConfig, TwoBranchGuidance

GIVEN: Final = 0.999
"""Time from which on features count as clean; Latent Forcing's."""


class Autoguidance(TwoBranchGuidance):
    """Guidance away from a weaker model: an earlier, smaller or shorter run takes the null branch [Karras et al.].

    v = v_weak + scale * (v - v_weak) within the interval. The weak model is the EMA model of another run of the same
    data, whose streams this run has too; a stream that the weak model lacks is not guided.

    Source: Karras et al. (arXiv 2406.02507); Latent Forcing (arXiv 2602.11401) takes a small model without labels.
    """

    config: "Config"

    @attrs.frozen(kw_only=True)
    class Config(TwoBranchConfig):
        """What a user may set."""

        run: str = attrs.field(default="", metadata={"sampling": True})
        """Folder of the finished run with the weak model; always needed."""
        when: Literal["always", "features-given"] = attrs.field(
            default="always", validator=in_(("always", "features-given")), metadata={"sampling": True}
        )
        """When the weak model takes the null branch: always, or only once the features are clean (Latent Forcing's
        image phase); before that the model itself does, without the label."""
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
        if "null" in branches and self._is_weak(times):
            null = branches.pop("null")
            branches["weak"] = branches["conditional"] if self.config.label else null
        return branches

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        conditional = velocities["conditional"]
        null = {**conditional, **velocities.get("weak", velocities.get("null", {}))}
        return super().combine({"conditional": conditional, "null": null}, times)

    def _is_weak(self, times: Mapping[str, float]) -> bool:
        """Whether the weak model is asked at these times."""
        return self.config.when == "always" or times.get(FEATURES, 1.0) >= GIVEN
