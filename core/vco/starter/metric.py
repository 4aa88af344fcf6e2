"""The metric `my-metric`: how far generated images are from real ones.

The contract is `vco.api.Metric`. A run scores with it at its end, and during training if --eval.every says so.
"""

from collections.abc import Mapping, Sequence

import attrs
import torch
from jaxtyping import UInt8
from torch import Tensor

from vco.api import Features, Metric, MetricSetting, Score, UserError


class MyMetric(Metric):
    """Distance between the mean features of generated and of real images, as its encoder sees them."""

    @attrs.frozen(kw_only=True)
    class Config(Metric.Config):
        """What a user may set, beside the encoder that all metrics have."""

        normalised: bool = False
        """Whether each image's features are first divided by their length."""

    def __init__(self, config: Config, setting: MetricSetting) -> None:
        """`setting` has the images' shape, and the name of the encoder with the shape of its features."""
        assert setting.features is not None, "vco gives the features' shape to a metric that needs_features"
        self.config = config
        self.encoder = setting.encoder
        self.counts = torch.zeros(2, dtype=torch.float64)  # of generated images, and of real ones
        self.sums = torch.zeros(2, setting.features.pooled, dtype=torch.float64)

    def update(self, images: UInt8[Tensor, "b c h w"], features: Features | None, generated: bool) -> None:
        """Takes some more images into account; features are [b, e] vectors (`pooled`) and [b, n, d] tokens."""
        assert features is not None
        vectors = features.pooled.double().cpu()
        if self.config.normalised:
            vectors = torch.nn.functional.normalize(vectors)
        kind = 0 if generated else 1
        self.counts[kind] += len(vectors)
        self.sums[kind] += vectors.sum(0)

    def state(self) -> Mapping[str, Tensor]:
        """What this process has gathered."""
        return {"counts": self.counts, "sums": self.sums}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes what all processes have gathered."""
        self.counts = torch.stack([state["counts"].cpu() for state in states]).sum(0)
        self.sums = torch.stack([state["sums"].cpu() for state in states]).sum(0)

    def score(self) -> Score:
        """The score of all images, with what it depends on beside them."""
        generated, real = self.counts.int().tolist()
        if not (generated and real):
            raise UserError(f"{generated} generated and {real} real images cannot be compared: set --eval.samples")
        means = self.sums / self.counts[:, None]
        distance = (means[0] - means[1]).norm().item()
        return Score(
            name=f"mean distance ({self.encoder})", value=distance, protocol={"generated": generated, "real": real}
        )
