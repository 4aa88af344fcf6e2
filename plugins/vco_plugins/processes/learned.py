"""A learned schedule: how far the image stays behind the features."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch
from attrs.validators import and_, deep_iterable, ge, gt, in_, min_len
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import IMAGE, Denoised, Process, ProcessSetting, Times
from vco_plugins.times import LogitNormalConfig, grid, logit_normal, other_streams, uniform


def _one_for_each_power(config: Any, attribute: "attrs.Attribute[Any]", value: tuple[float, ...]) -> None:
    if len(value) != len(config.powers):
        raise ValueError(f"shares ({len(value)} numbers) need one number for each of the powers ({len(config.powers)})")


class Learned(Process):
    """The features lead on a curve that is learned with the network, from its own loss [Learning When to Denoise].

    A clock u from 0 to 1 is the features' time. The image's time is a mixture of powers of it, t = sum_j w_j u^(p_j),
    with positive weights w_j that sum to 1: a convex curve, so that the image stays behind. The weights are trained for
    `learn_steps` steps and then stand still. Streams other than image and features count as features.

    Each stream's own times count in the loss as if they were drawn by `law`, whatever the curve. In training they are
    for one stream, drawn at random for every sample, and factors of the loss make up for the other: density(u) for the
    features and density(t) * dt/du for the image, over the mean of both. While the image keeps up, all factors are 1.

    The curve learns from what the network makes of the noisy streams and the times and, while the factors are
    `attached`, through them too. Only then is its gradient that of the loss: without, a curve also moves to where times
    cost less, and wants the kinetic term, which adds kinetic * mean |dt/du * v|^2 for the image's predicted velocity v
    and keeps the curve from becoming steep. It teaches the curve alone.

    Wants a backbone that is told both times (--backbone.time-embedding separate).

    Raises:
        UserError: If the image is the only stream.

    Source: Learning When to Denoise (arXiv 2606.19662) for the objective; the mixture of powers is ours.
    """

    @attrs.frozen(kw_only=True)
    class Config(LogitNormalConfig):
        """What a user may set; mean and std are those of the law logit-normal."""

        law: Literal["logit-normal", "uniform"] = attrs.field(
            default="logit-normal", validator=in_(("logit-normal", "uniform"))
        )
        """How much each stream's own times count in the loss."""
        powers: tuple[float, ...] = attrs.field(
            default=(1.0, 2.0, 4.0, 8.0), validator=and_(min_len(1), deep_iterable(ge(1.0)))
        )
        """Powers of the clock that the image's time is a mixture of, each at least 1."""
        shares: tuple[float, ...] = attrs.field(
            default=(0.7, 0.1, 0.1, 0.1), validator=[deep_iterable(gt(0.0)), _one_for_each_power]
        )
        """Weights of the powers at the start, each above 0; they are scaled to sum to 1."""
        learn_steps: int = attrs.field(default=10_000, validator=ge(0))
        """Steps after which the curve stands still (published: 10,000); 0 keeps the shares."""
        rate: float = attrs.field(default=1.0, validator=gt(0.0))
        """Learning rate of the curve over that of the network, above 0."""
        attached: bool = True
        """Whether gradients flow through the factors of the loss too (the authors are said to detach them)."""
        kinetic: float = attrs.field(default=0.0, validator=ge(0.0))
        """Weight of the kinetic term, at least 0 (the published weight is not known)."""

    config: Config

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.others = other_streams(setting.streams)
        self.theta = nn.Parameter(torch.tensor(config.shares).log(), requires_grad=config.learn_steps > 0)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        uniformly, config = self.config.law == "uniform", self.config
        t = uniform(batch, generator) if uniformly else logit_normal(batch, config.mean, config.std, generator)
        of_image = uniform(batch, generator) <= 0.5
        return self._at(torch.where(of_image, self._clock(t), t))

    def path(self, steps: int) -> Times:
        with torch.no_grad():
            times = self._at(grid(steps))
        times[IMAGE][-1] = 1.0  # which a sum of weights may miss by a rounding
        return times

    def weight(self, times: Times) -> Times:
        counts = self.counts(times)
        drawn = (counts[IMAGE].detach() + counts[self.others[0]]) / 2
        weights = {name: count / drawn.clamp(min=1e-12) for name, count in counts.items()}
        return weights if self.config.attached else {name: weight.detach() for name, weight in weights.items()}

    def counts(self, times: Times) -> Times:
        """How much each stream's times count, as a density along the clock: its integral over the clock is 1."""
        clock = times[self.others[0]]
        image = self._density(times[IMAGE]) * self.pace(clock)
        return {IMAGE: image, **dict.fromkeys(self.others, self._density(clock))}

    def losses(self, times: Times, denoised: Denoised) -> Mapping[str, Float[Tensor, ""]]:
        if not (self.config.kinetic and self.theta.requires_grad):
            return {}
        pace = self.pace(times[self.others[0]])
        speed = denoised.velocity[IMAGE].detach().float().square().flatten(1).mean(1)
        return {"kinetic": self.config.kinetic * (pace.square() * speed).mean()}

    def learning_rate_scale(self, step: int) -> float:
        return self.config.rate if step < self.config.learn_steps else 0.0

    def metrics(self) -> Mapping[str, Tensor]:
        shares = self.theta.detach().softmax(0)
        return {f"share_of_power_{power:g}": share for power, share in zip(self.config.powers, shares, strict=True)}

    def pace(self, clock: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How fast the image's time runs, dt/du."""
        shares, powers = self._mixture(clock)
        return (shares * powers * clock[:, None] ** (powers - 1)).sum(1)

    def _at(self, clock: Float[Tensor, " n"]) -> Times:
        """The times of all streams at times of the clock."""
        shares, powers = self._mixture(clock)
        image = (shares * clock[:, None] ** powers).sum(1).clamp(max=1)
        return {IMAGE: image, **dict.fromkeys(self.others, clock)}

    @torch.no_grad()
    def _clock(self, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The time of the clock at which the image has a time, by halving."""
        low, high = torch.zeros_like(t, dtype=torch.float64), torch.ones_like(t, dtype=torch.float64)
        for _ in range(40):
            middle = (low + high) / 2
            before = self._at(middle)[IMAGE] < t
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        return high.to(t.dtype)

    def _mixture(self, clock: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and powers, where the clock is and of its kind."""
        shares = self.theta.to(clock.device, clock.dtype).softmax(0)
        return shares, torch.tensor(self.config.powers, dtype=clock.dtype, device=clock.device)

    def _density(self, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How much a time counts: the density of the law, and 0 at t = 1, where nothing is to be predicted."""
        density = torch.ones_like(t)
        if self.config.law == "logit-normal":
            mean, std = self.config.mean, self.config.std
            inside = t.clamp(1e-6, 1 - 1e-6)
            away = (inside.logit() - mean) / std
            density = (-(away**2) / 2).exp() / (math.sqrt(2 * math.pi) * std * inside * (1 - inside))
        return density.masked_fill(t == 1, 0.0)
