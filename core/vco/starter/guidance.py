"""The guidance `my-guidance`: what training hides from the network, and how sampling makes use of that.

The contract is `vco.api.Guidance`. `vco.api.Condition` lists what can be hidden: labels, whole streams, and one stream
from another.
"""

from collections.abc import Mapping

import attrs
import torch
from attrs.validators import and_, ge, le
from jaxtyping import Int
from torch import Tensor

from vco.api import Condition, Guidance, GuidanceSetting, Streams


class MyGuidance(Guidance):
    """Classifier-free guidance with one scale for all streams and times; the null branch lacks the label.

    Source: Ho and Salimans (arXiv 2207.12598), eq. 6 with w = scale - 1.
    """

    @attrs.frozen(kw_only=True)
    class Config(Guidance.Config):
        """What a user may set."""

        scale: float = attrs.field(default=1.5, validator=ge(0.0), metadata={"sampling": True})
        """Guidance scale, at least 0; 1 is the conditional branch alone, at half the cost."""
        drop: float = attrs.field(default=0.1, validator=and_(ge(0.0), le(1.0)))
        """Probability that a training sample is shown without its label, in [0, 1]."""

    def __init__(self, config: Config, setting: GuidanceSetting) -> None:
        """`setting` has the streams of the run and the number of classes."""
        super().__init__()
        self.config = config
        self.null_label = setting.num_classes

    def condition(self, labels: Int[Tensor, " b"], generator: torch.Generator) -> Condition:
        """Training: labels [b] are those of the whole batch; every draw comes from `generator`."""
        hidden = torch.rand(len(labels), generator=generator) < self.config.drop
        return Condition(labels=labels.masked_fill(hidden, self.null_label))

    def branches(self, labels: Int[Tensor, " b"], times: Mapping[str, float]) -> dict[str, Condition]:
        """Sampling: what the network is asked at these times (stream -> t in [0, 1], 0 is noise); names are free.

        What a branch hides, `condition` must have hidden in training too.
        """
        branches = {"conditional": Condition(labels=labels)}
        if self.config.scale != 1:
            branches["null"] = Condition(labels=torch.full_like(labels, self.null_label))
        return branches

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        """The velocity of every stream that sampling follows, from those of the branches; same shapes."""
        conditional = velocities["conditional"]
        if "null" not in velocities:
            return conditional
        null = velocities["null"]
        return {stream: null[stream] + self.config.scale * (v - null[stream]) for stream, v in conditional.items()}
