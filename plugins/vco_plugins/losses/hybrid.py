"""V-Co's perceptual-drifting hybrid loss."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge, gt
from jaxtyping import Float, Int
from torch import Tensor

from vco.api import Features, Loss, LossSetting, ReadsFeatures, Step, chosen_features
from vco_plugins.distances import blocks, squared_distances


class Hybrid(Loss):
    """Predicted images are drawn to their clean image and driven off class mates, in feature space [V-Co].

    Source: V-Co (arXiv 2603.16792), perceptual-drifting hybrid loss.
    """

    grouped: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True
    gathers_mates: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Loss.Config):
        """What a user may set."""

        weight: float = attrs.field(default=10.0, validator=ge(0.0))
        """Factor of this loss in the total, at least 0."""
        tau_gate: float = attrs.field(default=10.0, validator=gt(0.0))
        """Squared distance (at most 4) over which attraction gives way to repulsion, above 0."""
        tau_repulsion: float = attrs.field(default=0.2, validator=gt(0.0))
        """Squared distance over which class mates repel each other, above 0."""
        attraction: float = attrs.field(default=1.0, validator=ge(0.0))
        """Weight of the pull towards the sample's own clean image, at least 0."""
        repulsion: float = attrs.field(default=1.0, validator=ge(0.0))
        """Weight of the push away from class mates, at least 0."""
        pooling: Literal["cls", "mean"] = "cls"
        """The vector of an image: the encoder's pooled one (class token), or the mean of its patch tokens."""

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, _ = chosen_features(setting.features, config.features)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        config = self.config
        loss = hybrid_loss(
            step.with_mates(self._pool(step.generated(self.encoder))),
            step.with_mates(self._pool(step.real(self.encoder))),
            step.with_mates(step.labels),
            tau_gate=config.tau_gate,
            tau_repulsion=config.tau_repulsion,
            attraction=config.attraction,
            repulsion=config.repulsion,
        )
        return {"hybrid": step.own(loss)}

    def _pool(self, features: Features) -> Float[Tensor, "b e"]:
        return features.pooled if self.config.pooling == "cls" else features.tokens.float().mean(1)


def hybrid_loss(
    generated: Float[Tensor, "b e"],
    real: Float[Tensor, "b e"],
    labels: Int[Tensor, " b"],
    *,
    tau_gate: float = 10.0,
    tau_repulsion: float = 0.2,
    attraction: float = 1.0,
    repulsion: float = 1.0,
) -> Float[Tensor, " b"]:
    """Squared distance of each sample to a drifted target, float32, weighted so that every class counts alike.

    The mean over the samples is the mean over the classes present of each class's mean.

    With g and r at unit length and s_i = exp(-|g_i - r_i|^2 / tau_gate), the target of g_i is g_i + V_i
    without gradient, V_i = attraction * s_i (r_i - g_i) - repulsion * (1 - s_i) (sum_j k_ij g_j - g_i), where
    k_ij is proportional to exp(-|g_i - g_j|^2 / tau_repulsion) over the class mates j != i. A sample without
    class mates is not repelled.

    Args:
        generated: vectors of the predicted images, of any length; gradients flow into them.
        real: vectors of each one's own clean image, of any length; no gradient.
        labels: classes; only their equality matters.
        tau_gate: see above; above 0.
        tau_repulsion: see above; above 0.
        attraction: see above; at least 0.
        repulsion: see above; at least 0.
    """
    with torch.autocast(generated.device.type, enabled=False):
        g = F.normalize(generated.float(), dim=-1)
        with torch.no_grad():
            r = F.normalize(real.float(), dim=-1)
            s = torch.exp(-(g - r).square().sum(-1, keepdim=True) / tau_gate)
            away, share = torch.empty_like(g), torch.empty_like(g[:, 0])
            for rows in blocks(labels):
                away[rows], share[rows] = _repulsion(g[rows], labels[rows], tau_repulsion)
            target = g + attraction * s * (r - g) - repulsion * (1 - s) * away
        return share / share.mean() * (g - target).square().mean(1)


def _repulsion(
    g: Float[Tensor, "b e"], labels: Int[Tensor, " b"], tau: float
) -> tuple[Float[Tensor, "b e"], Float[Tensor, " b"]]:
    """The way of each vector to the mean of its near class mates, 0 without mates, and its share in its class."""
    same = labels[:, None] == labels
    mates = same & ~torch.eye(len(g), dtype=torch.bool, device=g.device)
    k = torch.exp(-squared_distances(g, g) / tau) * mates
    k = k / k.sum(1, keepdim=True).clamp_min(1e-8)
    return mates.any(1, keepdim=True) * (k @ g - g), 1 / same.sum(1)
