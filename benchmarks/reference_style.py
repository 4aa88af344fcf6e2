"""A training step and a guided sampler as published V-Co code has them, built from our own modules.

They compute what ours compute (the benchmarks compare the numbers before they time anything), in the published way: a
dense additive mask, rotary embedding and norms element by element, a hybrid loss that loops over the classes and
encodes the clean images again, the norm of every gradient read to the host, averages tensor by tensor, an optimizer
without a fused kernel, and branches of guidance one after the other, inside and outside of the interval.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vco.api import FEATURES, IMAGE, Condition, Step, Streams
from vco.flow import guided, in_interval
from vco.objective import Objective
from vco_plugins.layers import RMSNorm, Rope2d, Told
from vco_plugins.layers.attention import Heads, Positions
from vco_plugins.losses.hybrid import Hybrid
from vco_plugins.trunk import DualBlock


class ElementwiseRope(Rope2d):
    """Rotary embedding as x * cos + rotated x * sin."""

    def forward(self, x: Heads, positions: Positions | None = None) -> Heads:
        cos, sin = (t[-x.shape[2] :].repeat_interleave(2, dim=-1) for t in (self.cos, self.sin))
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return (x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin).to(x.dtype)


class ElementwiseNorm(RMSNorm):
    """Root-mean-square norm, operation by operation."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.weight * wide).to(x.dtype)


class DenseBlock(DualBlock):
    """A block whose attention is given a dense table of what is added to its scores."""

    def forward(
        self, x: Streams, c: Told, rope: Rope2d | None, blocked: Mapping[tuple[str, str], Tensor]
    ) -> dict[str, Tensor]:
        before = {name: stream.before(x[name], c) for name, stream in self.streams.items()}
        qkv = {name: self.attention[name].project(h, rope) for name, (h, _) in before.items()}
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*qkv.values(), strict=True))
        own = qkv[IMAGE][0].shape[2]
        mask = None
        if (IMAGE, FEATURES) in blocked:
            mask = q.new_zeros(len(q), 1, q.shape[2], q.shape[2])
            hidden = blocked[IMAGE, FEATURES][:, None, None, None]
            mask[:, :, :own, own:] = torch.where(hidden, -torch.inf, 0.0).to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        parts = dict(zip(qkv, attended.split([own, attended.shape[2] - own], dim=2), strict=True))
        return {
            name: stream.after(x[name], self.attention[name].merge(parts[name]), before[name][1])
            for name, stream in self.streams.items()
        }


class HybridByClass(Hybrid):
    """The hybrid loss, class after class; the clean images of each are encoded again."""

    def forward(self, step: Step) -> dict[str, Tensor]:
        config, source = self.config, step.sources[self.encoder]
        generated = step.generated(self.encoder).pooled
        with torch.no_grad():
            real = source.perceive(step.images).pooled
        losses: list[Tensor] = []
        for label in step.labels.unique().tolist():
            rows = torch.nonzero(step.labels == label).flatten()
            g, r = F.normalize(generated[rows].float(), dim=-1), F.normalize(real[rows].float(), dim=-1)
            with torch.no_grad():
                s = torch.exp(-(g - r).square().sum(-1, keepdim=True) / config.tau_gate)
                k = torch.exp(-torch.cdist(g, g).square() / config.tau_repulsion)
                k = k.masked_fill(torch.eye(len(g), dtype=torch.bool, device=g.device), 0.0)
                target = g + s * (r - g)
                if len(g) > 1:
                    target = target - (1 - s) * ((k / k.sum(1, keepdim=True).clamp_min(1e-8)) @ g - g)
            losses.append((g - target).square().mean())
        return {"hybrid": torch.stack(losses).mean()}


def in_reference_style(objective: Objective) -> Objective:
    """Turns an objective with backbone jit-dual and loss hybrid into its reference-style twin, in place."""
    styles: dict[type, type] = {
        Rope2d: ElementwiseRope,
        RMSNorm: ElementwiseNorm,
        DualBlock: DenseBlock,
        Hybrid: HybridByClass,
    }
    for module in objective.modules():
        if type(module) in styles:
            module.__class__ = styles[type(module)]
    return objective


class ReferenceUpdate:
    """The end of a step: norms of all gradients read one by one, AdamW, and averages tensor by tensor."""

    def __init__(self, module: nn.Module, decays: Sequence[float]) -> None:
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.averages = [(decay, [p.detach().clone() for p in self.parameters]) for decay in decays]

    def __call__(self) -> None:
        sum(p.grad.norm(2).item() ** 2 for p in self.parameters if p.grad is not None)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for decay, average in self.averages:
                for mean, value in zip(average, self.parameters, strict=True):
                    mean.mul_(decay).add_(value, alpha=1 - decay)


class ReferenceVelocity:
    """Guided velocities, the branches one after the other; both are evaluated wherever the time is."""

    def __init__(self, objective: Objective, labels: Tensor, scale: float, interval: tuple[float, float]) -> None:
        self.objective, self.scale, self.interval = objective, scale, interval
        everyone = torch.ones_like(labels, dtype=torch.bool)
        null: Condition = objective.guidance.without(labels, everyone)  # pyright: ignore
        nobody = {edge: ~everyone for edge in null.blocked}  # the published code gives a mask to both branches
        self.branches = (Condition(labels=labels, blocked=nobody), null)

    def __call__(self, state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        t = {name: torch.full((len(x),), times[name], device=x.device) for name, x in state.items()}
        conditional, null = (self.objective.network(state, t, branch).velocity for branch in self.branches)
        scales = {name: self.scale if in_interval(times[name], *self.interval) else 1.0 for name in state}
        return {name: guided(conditional[name], null[name], scales[name]) for name in state}
