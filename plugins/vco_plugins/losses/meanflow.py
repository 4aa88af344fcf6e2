"""MeanFlow: the network learns the mean velocity of whole steps, so that sampling takes one or a few."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs.validators import and_, ge, gt, in_, le, lt
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vco import flow
from vco.api import Condition, Loss, LossSetting, Network, Step, Streams, Times


def _above_low(config: Any, attribute: "attrs.Attribute[float]", value: float) -> None:
    if value <= config.guided_low:
        raise ValueError(f"guided_high ({value}) must be above guided_low ({config.guided_low})")


class MeanFlow(Loss):
    """The network learns the mean velocity of a step from t to q, in place of the denoising loss [MeanFlow].

    The mean velocity u obeys u = v + (q - t) du/dt along the flow, where v is the velocity at t. The right-hand side,
    with the network's own u in the derivative and without gradient, is what u is regressed to. The network may predict
    clean streams, as in pixel MeanFlow: all velocities are then divided by max(1 - t, 0.05) alike. Sample with the
    solver of the same name, in any number of steps. Any other solver works too: asked about one time, the network is
    an ordinary denoiser. Losses on predicted images do not go with it: between q = t and q = 1 a prediction is none.

    Guidance can be learnt as well. Then v = omega * v_true + kappa * u(label) + (1 - omega - kappa) * u(null), with
    both u at q = t, and sampling needs --guidance.scale 1, as guidance would count twice otherwise. The null branch
    lacks the label and all else that the run's guidance hides from training samples (attention edges, streams).
    Samples from which something is hidden learn the plain velocity. The run's guidance has to drop labels.

    The times are drawn here, t and q of a sample for all its streams, so that the process's own law of times does not
    matter; its weights, `t_low` and `t_high` go by the times that it has drawn. Its path of sampling must be the same
    for all streams, as with --process shared.

    The squared error of a stream is summed over a sample and divided by its own size: the logged loss stays near the
    stream's weight (--train.stream-weights). The metric `velocity_error`, the mean squared distance of u to v_true,
    shows progress.

    Source: Mean Flows for One-step Generative Modeling (arXiv 2505.13447); pixel MeanFlow (arXiv 2601.22158) for
        networks that predict clean images. That streams move together is ours.
    """

    needs_features: ClassVar[bool] = False
    needs_until: ClassVar[bool] = True
    one_time: ClassVar[bool] = True
    replaces_denoising: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        omega: float = attrs.field(default=1.0, validator=ge(0.0))
        """Share of the true velocity in the guided one, at least 0 (MeanFlow: B 1, L and XL 0.2)."""
        kappa: float = attrs.field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
        """Share of the network's own conditional velocity in the guided one, in [0, 1) (MeanFlow: B 0.5, L and XL
        0.92); the scale of guidance is omega / (1 - kappa), and omega 1 with kappa 0 means none."""
        guided_low: float = attrs.field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
        """Guided only where t is at least this, in [0, 1); 0 is noise (MeanFlow: L 0.2)."""
        guided_high: float = attrs.field(default=1.0, validator=[le(1.0), _above_low])
        """Guided only where t is at most this, in (guided_low, 1]; 1 is data."""
        mean: float = 0.4
        """Mean of the logit of the times drawn; below 0 there is more noise than data (pixel MeanFlow: -0.8)."""
        std: float = attrs.field(default=1.0, validator=gt(0.0))
        """Standard deviation of the logit of the times drawn, above 0 (pixel MeanFlow: 0.8)."""
        instants: float = attrs.field(default=0.75, validator=and_(ge(0.0), le(1.0)))
        """Probability of q = t, so that a sample learns the velocity at one time; in [0, 1] (pixel MeanFlow: 0.5)."""
        instant_time: Literal["minimum", "draw"] = attrs.field(default="minimum", validator=in_(("minimum", "draw")))
        """t of the samples with q = t: the smaller of two draws (MeanFlow), or a single one (pixel MeanFlow)."""
        null_gaps: bool = True
        """Whether samples without label may have q > t; in the published code they have not."""
        power: float = attrs.field(default=1.0, validator=and_(ge(0.0), le(1.0)))
        """The summed squared error is divided by this power of itself, in [0, 1]; 0 leaves it as it is."""
        floor: float = attrs.field(default=0.01, validator=gt(0.0))
        """Added to the summed squared error that is divided by, above 0."""

    errors: Tensor

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config
        self.num_classes = setting.num_classes
        self.streams = tuple(setting.streams)
        self.register_buffer("errors", torch.zeros(len(self.streams)), persistent=False)

    def prepare(self, step: Step) -> Step:
        config, labels = self.config, step.condition.labels
        draws = torch.sigmoid(config.mean + config.std * step.generator.randn(2))
        instant = step.generator.rand() < config.instants
        if not config.null_gaps:
            instant |= labels == self.num_classes
        t, until = draws.amin(1), draws.amax(1)
        if config.instant_time == "draw":
            t = torch.where(instant, draws[:, 0], t)
        until = torch.where(instant, t, until)
        condition = replace(step.condition, until=dict.fromkeys(step.specs, until))
        return step.asking(times=dict.fromkeys(step.specs, t), condition=condition)

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        true = {s: flow.velocity(step.target[s].detach(), step.noisy[s], step.times[s]) for s in self.streams}
        with torch.no_grad():
            plain = {s: v.detach() for s, v in true.items()}
            target = self._target(step, self._guided(step, plain))
        terms: Streams = {}
        for number, s in enumerate(self.streams):
            # x_t, which may carry gradient to an adapter, cancels in this difference
            apart = step.denoised.velocity[s].float() - true[s]
            self.errors[number] = apart.detach().square().mean()
            error = (apart - (target[s] - plain[s])).square().flatten(1).sum(1)
            loss = error / (error.detach() + self.config.floor) ** self.config.power
            terms[s] = loss * _of_samples(step.denoising_weights.get(s), loss)
        return terms

    def metrics(self) -> Mapping[str, Tensor]:
        return {f"velocity_error.{s}": error for s, error in zip(self.streams, self.errors, strict=True)}

    def _guided(self, step: Step, velocity: Streams) -> Streams:
        """The guided velocity of every stream, from the true one."""
        config, condition = self.config, step.condition
        if config.omega == 1 and config.kappa == 0:
            return velocity
        whole = condition.labels != self.num_classes
        for rows in (*condition.blocked.values(), *condition.nulled.values()):
            whole = whole & ~rows
        inside = [(t >= config.guided_low) & (t <= config.guided_high) for t in step.times.values()]
        rows = torch.stack([whole, *inside]).all(0).nonzero()[:, 0]
        if not len(rows):
            return velocity
        asked = Question(step.noisy, step.times, replace(condition, until={})).of(rows)
        conditional = step.quiet(asked.noisy, asked.times, asked.condition).velocity
        null = step.quiet(asked.noisy, asked.times, null_branch(asked.condition, self.num_classes)).velocity
        return {
            s: v.index_copy(0, rows, guided_velocity(v[rows], conditional[s], null[s], config.omega, config.kappa))
            for s, v in velocity.items()
        }

    def _target(self, step: Step, velocity: Streams) -> Streams:
        """What the mean velocity of every stream is regressed to."""
        gaps = {s: until - step.times[s] for s, until in step.condition.until.items()}
        rows = torch.stack([gap > 0 for gap in gaps.values()]).any(0).nonzero()[:, 0]
        if not len(rows):
            return velocity
        asked = Question(step.noisy, step.times, step.condition).of(rows)
        slopes = along_the_flow(step.quiet, asked, {s: v[rows] for s, v in velocity.items()})
        return {
            s: v.index_add(0, rows, flow.spread(gaps[s][rows], slopes[s]) * slopes[s].float())
            for s, v in velocity.items()
        }


@dataclass(frozen=True)
class Question:
    """What a network is asked about."""

    noisy: Streams
    times: Times
    condition: Condition

    def of(self, rows: Int[Tensor, " k"]) -> "Question":
        """The same about some of the samples."""
        noisy, times = ({s: x[rows] for s, x in tensors.items()} for tensors in (self.noisy, self.times))
        return Question(noisy, times, self.condition.map(lambda tensor: tensor[rows]))


def along_the_flow(network: Network, asked: Question, velocity: Streams) -> Streams:
    """The derivative in t of a network's mean velocities, where every stream moves with its velocity and q stays.

    One forward-mode derivative, whose tangent holds all streams, since each one's velocity depends on all of them.
    """

    def mean_velocity(noisy: Streams, times: Times) -> Streams:
        return network(noisy, times, asked.condition).velocity

    noisy = {s: x.detach() for s, x in asked.noisy.items()}
    moving = {s: v.to(noisy[s].dtype) for s, v in velocity.items()}
    ones = {s: torch.ones_like(t) for s, t in asked.times.items()}
    # the fused attentions have no forward-mode derivative
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # torch's forward mode is made with what torch itself calls deprecated
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        return torch.func.jvp(mean_velocity, (noisy, asked.times), (moving, ones))[1]


def guided_velocity(v: Tensor, conditional: Tensor, null: Tensor, omega: float, kappa: float) -> Tensor:
    """Returns omega * v + kappa * conditional + (1 - omega - kappa) * null, float32."""
    return omega * v.float() + kappa * conditional.float() + (1 - omega - kappa) * null.float()


def null_branch(condition: Condition, num_classes: int) -> Condition:
    """The condition without labels, and with all hidden that is hidden in some training sample."""
    return replace(
        condition,
        labels=torch.full_like(condition.labels, num_classes),
        blocked={edge: torch.ones_like(rows) for edge, rows in condition.blocked.items()},
        nulled={stream: torch.ones_like(rows) for stream, rows in condition.nulled.items()},
    )


def _of_samples(weights: Tensor | None, loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Weights of the samples, from those of the samples or of their tokens."""
    return torch.ones_like(loss) if weights is None else weights.reshape(len(loss), -1).mean(1)
