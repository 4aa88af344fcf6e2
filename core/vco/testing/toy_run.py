"""A whole training step around one backbone: everything else in it is small and simple."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import (
    FEATURES,
    IMAGE,
    Adapted,
    Adapter,
    Backbone,
    CodecSetting,
    Condition,
    Features,
    FeatureSpec,
    Guidance,
    Loss,
    Process,
    Step,
    Streams,
    StreamSpec,
    Times,
)
from vco.objective import Objective
from vco.testing.toy import ToyCodec, ToyEncoder


class ToyAdapter(Adapter):
    """Makes the streams that a backbone wants of the features, by fixed random layers."""

    def __init__(self, streams: Mapping[str, StreamSpec], spec: FeatureSpec) -> None:
        super().__init__()
        self.config = Adapter.Config()
        self.streams = {name: stream for name, stream in streams.items() if name != IMAGE}
        draws = torch.Generator().manual_seed(21)
        for name, stream in self.streams.items():
            weight = torch.randn(spec.pooled, stream.shape[0] * stream.shape[1], generator=draws)
            self.register_buffer(name, weight / spec.pooled**0.5)

    def specs(self) -> dict[str, StreamSpec]:
        """The wanted streams."""
        return dict(self.streams)

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        """The streams, each a layer over the pooled vector."""
        pooled = next(iter(features.values())).pooled
        value: Streams = {}
        for name, spec in self.streams.items():
            value[name] = (pooled @ self.get_buffer(name)).unflatten(1, spec.shape)
        return Adapted(value=value, target=value)


class ToyGuidance(Guidance):
    """Drops every third label."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.config, self.classes = Guidance.Config(), classes

    def condition(self, labels: Tensor, generator: torch.Generator) -> Condition:
        """What the network is told in training."""
        return Condition(labels=torch.where(torch.arange(len(labels)) % 3 == 2, self.classes, labels))

    def branches(self, labels: Tensor, times: Mapping[str, float]) -> dict[str, Condition]:
        """One branch."""
        return {"only": Condition(labels=labels)}

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        """The velocity of the one branch."""
        return velocities["only"]


class ToyProcess(Process):
    """Uniform times, the same for all streams."""

    def __init__(self, streams: Iterable[str]) -> None:
        super().__init__()
        self.config, self.streams = Process.Config(), tuple(streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        """Training times."""
        return dict.fromkeys(self.streams, torch.rand(batch, generator=generator))

    def path(self, steps: int) -> Times:
        """Sampling times."""
        return dict.fromkeys(self.streams, torch.linspace(0, 1, steps + 1, dtype=torch.float64))


class TapLoss(Loss):
    """Projected taps align with features of the clean image at the same positions."""

    def __init__(self, blocks: Iterable[int], width: int, spec: FeatureSpec) -> None:
        super().__init__()
        self.config, self.blocks = Loss.Config(), tuple(blocks)
        self.projections = nn.ModuleDict({str(k): nn.Linear(width, spec.tokens[1]) for k in self.blocks})

    @property
    def taps(self) -> tuple[int, ...]:
        """All blocks that it was given."""
        return self.blocks

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        """One term for each block."""
        target = step.real().tokens.detach()
        terms: dict[str, Tensor] = {}
        for k in self.blocks:
            tap = step.denoised.taps[k]
            similarity = F.cosine_similarity(self.projections[str(k)](tap.tokens), tap.of(target), dim=-1)
            terms[f"block-{k}"] = -similarity.mean(1)
        return terms


class PredictedImageLoss(Loss):
    """The predicted image has the features of the clean one."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Loss.Config()

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        """One term."""
        return {"image": (step.generated().tokens - step.real().tokens.detach()).square().mean((1, 2))}


class TeacherLoss(Loss):
    """Hidden tokens come near those that the network's average has at a later time, where both have some."""

    needs_features: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True

    def __init__(self, blocks: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.blocks = Loss.Config(), blocks

    @property
    def taps(self) -> tuple[int, ...]:
        """The student's block."""
        return self.blocks[:1]

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        """One term."""
        later = {stream: (t + 0.2).clamp(max=1.0) for stream, t in step.times.items()}
        tap = step.denoised.taps[self.blocks[0]]
        target = step.teacher(step.noised(later), later, step.condition, self.blocks[1:]).taps[self.blocks[1]]
        difference = tap.tokens - tap.of(_on_the_grid(target.tokens, target.positions))
        return {"teacher": difference.square().mean((1, 2))}


class EndOfStepLoss(Loss):
    """The velocity of a step is asked for with its end, and is that of the straight way to the clean stream."""

    needs_features: ClassVar[bool] = False
    needs_until: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.config = Loss.Config()

    def prepare(self, step: Step) -> Step:
        """The step to half of the way that is left."""
        until = {stream: (t + 1) / 2 for stream, t in step.times.items()}
        return step.asking(condition=replace(step.condition, until=until))

    def forward(self, step: Step) -> Mapping[str, Float[Tensor, " b"]]:
        """One term for each stream."""
        away = {stream: step.target[stream] - step.noise[stream] for stream in step.specs}
        velocity = step.denoised.velocity
        return {stream: (velocity[stream] - v).square().flatten(1).mean(1) for stream, v in away.items()}


def _on_the_grid(tokens: Float[Tensor, "b n d"], positions: Tensor) -> Float[Tensor, "b m d"]:
    """Tokens at their positions of the whole grid; in eval mode a network has them all."""
    places = positions.expand(tokens.shape[:2])[..., None].expand_as(tokens)
    return torch.zeros_like(tokens).scatter(1, places, tokens)


def training_objective(
    backbone: Backbone,
    streams: Mapping[str, StreamSpec],
    features: Mapping[str, FeatureSpec],
    classes: int,
    losses: Mapping[str, Loss],
) -> Objective:
    """The objective of a run with this backbone; its image stream are pixels.

    Args:
        backbone: the network.
        streams: every stream of the run.
        features: what the encoders yield, on the backbone's grid.
        classes: number of classes.
        losses: losses beside the denoising loss.
    """
    channels, height, width = streams[IMAGE].shape
    image_shape = (channels, height, width)
    sources = {name: ToyEncoder(image_shape, spec, seed) for seed, (name, spec) in enumerate(features.items())}
    adapter: Any = ToyAdapter(streams, next(iter(features.values())))
    return Objective(
        backbone=backbone,
        adapter=adapter,
        losses=losses,
        guidance=ToyGuidance(classes),
        process=ToyProcess(streams),
        codec=ToyCodec(CodecSetting(image_shape=image_shape), folded=False),
        sources=sources,
        specs=streams,
        stream_weights={FEATURES: 0.1},
    )
