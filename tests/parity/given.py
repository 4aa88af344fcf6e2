"""A training step whose streams, times, dropped labels and encoder tokens are given, as golden files have them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vco.api import (
    IMAGE,
    Adapted,
    Adapter,
    Backbone,
    CodecSetting,
    Condition,
    Features,
    FeatureSource,
    FeatureSpec,
    Guidance,
    GuidanceSetting,
    Loss,
    LossSetting,
    Process,
    Streams,
    StreamSpec,
    Times,
)
from vco.objective import Objective
from vco.randomness import RowGenerator
from vco.step_inputs import Draw, Inputs
from vco_plugins.codecs.pixels import Pixels
from vco_plugins.guidance.cfg import CFG
from vco_plugins.two_branch import TwoBranchConfig

ENCODER = "given"


class GivenStreams(Adapter):
    """An adapter whose streams are known beforehand."""

    def __init__(self, streams: Streams, specs: Mapping[str, StreamSpec]) -> None:
        super().__init__()
        self.config, self.streams, self.given = Adapter.Config(), streams, dict(specs)

    def specs(self) -> dict[str, StreamSpec]:
        return self.given

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        return Adapted(value=self.streams, target=self.streams)


class GivenTokens(FeatureSource):
    """An encoder whose tokens and pooled vectors are known beforehand."""

    def __init__(self, tokens: Tensor, pooled: Tensor | None = None) -> None:
        super().__init__()
        side = round(tokens.shape[1] ** 0.5)
        self.tokens, self.pooled = tokens, tokens.mean(1) if pooled is None else pooled
        self.spec = FeatureSpec(tokens=(tokens.shape[1], tokens.shape[2]), grid=(side, side))

    def load(self) -> None:
        """There is nothing to load."""

    def forward(self, images: Tensor) -> Features:
        return Features(tokens=self.tokens, grid=self.spec.grid, pooled=self.pooled)


class GivenTimes(Process):
    """A process that draws the times and weights that are given."""

    def __init__(self, times: Times, weights: Times | None = None) -> None:
        super().__init__()
        self.config, self.times, self.weights = Process.Config(), times, weights

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        return self.times

    def weight(self, times: Times) -> Times:
        return self.weights or super().weight(times)

    def path(self, steps: int) -> Times:
        raise NotImplementedError


class GivenRows(CFG):
    """Classifier-free guidance that drops the labels of given rows in training."""

    rows: Tensor

    def condition(self, labels: Tensor, generator: torch.Generator) -> Condition:
        return self.without(labels, self.rows)


def dropping(rows: Tensor, specs: Mapping[str, StreamSpec], num_classes: int) -> GivenRows:
    """Guidance that drops the labels of these rows."""
    guidance = GivenRows(TwoBranchConfig(), GuidanceSetting(streams=specs, num_classes=num_classes))
    guidance.rows = rows
    return guidance


def specs_of(streams: Streams) -> dict[str, StreamSpec]:
    """The specs of given streams, of which no component asks for a grid."""
    return {name: StreamSpec(shape=tuple(x.shape[1:])) for name, x in streams.items()}


def given_objective(
    backbone: Backbone,
    streams: Streams,
    *,
    guidance: Guidance,
    process: Process | None = None,
    losses: Mapping[str, Loss] | None = None,
    source: GivenTokens | None = None,
    stream_weights: Mapping[str, float] | None = None,
) -> Objective:
    """The objective of a network on these clean streams."""
    channels, height, width = streams[IMAGE].shape[1:]
    specs = specs_of(streams)
    others = {name: spec for name, spec in specs.items() if name != IMAGE}
    t = {name: torch.zeros(len(x)) for name, x in streams.items()}
    return Objective(
        backbone=backbone,
        adapter=GivenStreams({name: streams[name] for name in others}, others),
        losses=losses or {},
        guidance=guidance,
        process=process or GivenTimes(t),
        codec=Pixels(Pixels.Config(), CodecSetting(image_shape=(channels, height, width))),
        sources={ENCODER: source} if source else {},
        specs=specs,
        stream_weights=stream_weights or {},
    )


def loss_setting(backbone: Backbone, streams: Streams, source: GivenTokens, num_classes: int) -> LossSetting:
    """What a loss is told of the run."""
    return LossSetting(
        width=backbone.width,
        grid=backbone.grid,
        depth=backbone.depth,
        features={ENCODER: source.spec},
        streams=specs_of(streams),
        num_classes=num_classes,
    )


def step(model: Objective, streams: Streams, noise: Streams, labels: Tensor) -> tuple[dict[str, Tensor], Draw]:
    """The losses of one step, after the backward pass, and what was drawn for it."""
    rows = RowGenerator((0,), range(len(labels)))
    inputs = Inputs(images=streams[IMAGE], labels=labels, noise=noise, generator=rows)
    draw = model.draw(labels, seed=0, step=0)
    losses = model(inputs, draw)
    losses["loss"].backward()
    return {name: value.detach() for name, value in losses.items()}, draw


def gradient_norm(model: torch.nn.Module) -> Tensor:
    """The norm of all gradients together, as one number in a vector."""
    grads: list[Any] = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
    return torch.stack(grads).sum().sqrt().reshape(1)
