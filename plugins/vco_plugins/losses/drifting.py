"""The drifting loss, on the predicted images of a denoiser."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal

import attrs
import torch
from attrs.validators import deep_iterable, ge, gt, in_, min_len
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vco.api import Features, Loss, LossSetting, ReadsFeatures, Step, chosen_features, gather_rows, sum_over_processes
from vco_plugins.distances import blocks, squared_distances

FLOOR: Final = 1e-6
"""Smallest product of both softmaxes: however far apart, every pair keeps an affinity of 0.001."""
NOT_ITSELF: Final = 100.0
"""Added to a sample's distance to itself, in units of the typical distance."""


class Drifting(Loss):
    """Predicted images drift to the clean images of their class and away from each other, in feature space [Drifting].

    Every class of the batch is one problem: the predictions of its samples drift, its clean images attract, the class's
    other predictions repel. With `alpha` above 1 the clean images of the batch's other classes repel too, weighted as
    the paper weights its unconditional negatives; the default leaves guidance to the sampler.

    Forces are brought to unit size, so the loss stays of the order of 1 to 9: the logged `force` tells of progress. The
    sizes that couple the batch are taken over all processes, in one forward pass (not over accumulation steps).

    Source: Generative Modeling via Drifting (arXiv 2602.04770), for a one-step generator with banks of samples;
        V-Co (arXiv 2603.16792) takes it as a loss of a denoiser, and publishes its settings but not its code.
    """

    grouped: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True
    gathers_mates: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Loss.Config):
        """What a user may set."""

        weight: float = attrs.field(default=0.1, validator=ge(0.0))
        """Factor of this loss in the total, at least 0 (our choice)."""
        temperatures: tuple[float, ...] = attrs.field(
            default=(0.2, 0.05, 0.02), validator=[min_len(1), deep_iterable(gt(0.0))]
        )
        """Ranges of the forces that are added, above 0, in units of the typical distance."""
        alpha: float = attrs.field(default=1.0, validator=ge(1.0))
        """Guidance that is trained in, at least 1: repulsion from the other classes' clean images (paper: 1 to 4)."""
        pooling: Literal["cls", "mean"] = attrs.field(default="cls", validator=in_(("cls", "mean")))
        """The vector of an image: the encoder's pooled one (class token), or the mean of its patch tokens."""

    force: Tensor

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, _ = chosen_features(setting.features, config.features)
        self.register_buffer("force", torch.zeros(len(config.temperatures)), persistent=False)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        real, labels = self._pool(step.real(self.encoder)), step.labels
        groups = step.with_mates(labels)
        if self.config.alpha > 1:  # all others repel, not only those that are seen here
            real, labels = gather_rows(real), gather_rows(labels)
        else:
            real, labels = step.with_mates(real), groups
        same = groups[:, None] == labels
        others = (~same).sum(1, keepdim=True)
        repulsion = (self.config.alpha - 1) * (same.sum(1, keepdim=True) - 1) / others.clamp_min(1)
        loss, force = drifting_loss(
            step.with_mates(self._pool(step.generated(self.encoder))),
            real,
            groups=groups,
            positive=same,
            weights=torch.where(same, 1.0, repulsion),
            temperatures=self.config.temperatures,
        )
        self.force.copy_(force)
        return {"drifting": step.own(loss)}

    def metrics(self) -> Mapping[str, Tensor]:
        return {f"force_{r:g}": size for r, size in zip(self.config.temperatures, self.force, strict=True)}

    def _pool(self, features: Features) -> Float[Tensor, "b e"]:
        return features.pooled.float() if self.config.pooling == "cls" else features.tokens.float().mean(1)


def drifting_loss(
    generated: Float[Tensor, "g s"],
    others: Float[Tensor, "y s"],
    *,
    groups: Int[Tensor, " g"],
    positive: Bool[Tensor, "g y"],
    weights: Float[Tensor, "g y"],
    temperatures: Sequence[float] = (0.2, 0.05, 0.02),
) -> tuple[Float[Tensor, " g"], Float[Tensor, " r"]]:
    """The loss of each generated sample, and the mean squared force at each temperature; float32.

    With X the generated samples and Y = X and the others, distances D are measured in units of their weighted mean over
    all pairs of a group. At temperature R the affinity A of sample i to y is the root of softmax over y times softmax
    over the samples of the group, both of -D / R, times y's weight. V_i = sum over pairs of an attracting y and a
    repelling z of A_iy A_iz (y - z) is the force; the target of X_i is X_i and the sum over R of V_i / rms(V).

    Args:
        generated: samples that drift; they repel each other within their group; gradients flow into them.
        others: samples that stay; no gradient.
        groups: samples with the same number see each other.
        positive: whether an entry of `others` attracts a sample, or repels it.
        weights: weight of an entry of `others` for a sample, at least 0; 0 leaves it out. Equal within a group.
        temperatures: R, above 0.

    Source: Drifting (arXiv 2602.04770), its published code.
    """
    with torch.autocast(generated.device.type, enabled=False), torch.no_grad():
        x, fixed = generated.float(), others.float()
        problems = [_Problem.of(x, fixed, groups, positive, weights, rows) for rows in blocks(groups)]
        sums = [torch.stack([(one.distance * one.weights).sum(), one.weights.sum()]) for one in problems]
        weighted, total = sum_over_processes(torch.stack(sums).sum(0))
        typical = weighted / total
        scale = (typical / x.shape[1] ** 0.5).clamp_min(1e-3)
        field = torch.zeros_like(x)
        forces: list[Tensor] = []
        for temperature in temperatures:
            force = torch.empty_like(x)
            for one in problems:
                force[one.rows] = one.force(temperature, typical.clamp_min(1e-3)) / scale
            squares, count = sum_over_processes(torch.stack([force.square().sum(), force.new_full((), force.numel())]))
            forces.append(squares / count)
            field = field + force / forces[-1].clamp_min(1e-8).sqrt()
        target = x / scale + field
    return (generated.float() / scale - target).square().mean(1), torch.stack(forces)


@attrs.frozen(kw_only=True, eq=False)
class _Problem:
    """Samples that drift, and what they see."""

    rows: Int[Tensor, " g"] | slice
    """Which samples of the batch these are."""
    x: Float[Tensor, "g s"]
    """The samples, ..."""
    y: Float[Tensor, "y s"]
    """... and all that they see: themselves, and the others that have a weight for any of them."""
    same: Bool[Tensor, "g g"]
    """Whether two samples are of one group."""
    attracts: Bool[Tensor, "g y"]
    weights: Float[Tensor, "g y"]
    distance: Float[Tensor, "g y"]

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "b s"],
        others: Float[Tensor, "y s"],
        groups: Int[Tensor, " b"],
        positive: Bool[Tensor, "b y"],
        weights: Float[Tensor, "b y"],
        rows: Int[Tensor, " g"] | slice,
    ) -> "_Problem":
        """The problem of some rows; arguments as in `drifting_loss`."""
        x, positive, weights = x[rows], positive[rows], weights[rows]
        if not isinstance(rows, slice):
            seen = (weights != 0).any(0)
            others, positive, weights = others[seen], positive[:, seen], weights[:, seen]
        same = groups[rows][:, None] == groups[rows]
        y = torch.cat([x, others])
        return cls(
            rows=rows,
            x=x,
            y=y,
            same=same,
            attracts=torch.cat([torch.zeros_like(same), positive], dim=1),
            weights=torch.cat([same.to(weights.dtype), weights], dim=1),
            distance=squared_distances(x, y).sqrt().clamp_min(1e-4),
        )

    def force(self, temperature: float, typical: Float[Tensor, ""]) -> Float[Tensor, "g s"]:
        """V of each sample, of distances in units of `typical`."""
        distance = self.distance / typical + NOT_ITSELF * torch.eye(*self.distance.shape, device=self.x.device)
        logits = (-distance / temperature).masked_fill(self.weights == 0, -torch.inf)
        product = logits.softmax(1) * _softmax_in_groups(logits, self.same)
        affinity = product.clamp_min(FLOOR).sqrt() * self.weights
        pull, push = affinity * self.attracts, affinity * ~self.attracts
        coefficients = pull * push.sum(1, keepdim=True) - push * pull.sum(1, keepdim=True)  # each row adds up to 0
        return coefficients @ self.y - coefficients.sum(1, keepdim=True) * self.x


def _softmax_in_groups(logits: Float[Tensor, "g y"], same: Bool[Tensor, "g g"]) -> Float[Tensor, "g y"]:
    """Softmax over the rows of each group, of shapes that do not depend on the groups; 0 where all are -inf."""
    first = same.int().argmax(1)  # the group's number: its first row
    index = first[:, None].expand_as(logits)
    largest = torch.full_like(logits, -torch.inf).scatter_reduce(0, index, logits, "amax")[first]
    powers = torch.where(logits.isneginf(), 0.0, (logits - largest).exp())
    return powers / torch.zeros_like(powers).index_add(0, first, powers)[first].clamp_min(1.0)
