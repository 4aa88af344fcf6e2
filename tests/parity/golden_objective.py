"""Objectives whose features and times are given, as those that the published code was run with."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from vco.api import (
    FEATURES,
    IMAGE,
    Adapter,
    AdapterSetting,
    Backbone,
    CodecSetting,
    Features,
    FeatureSource,
    FeatureSpec,
    Guidance,
    Process,
    Streams,
    StreamSpec,
    Times,
)
from vco.objective import Objective
from vco_plugins.adapters.identity import Identity
from vco_plugins.codecs.pixels import Pixels

ENCODER: Final = "given"


class GivenFeatures(FeatureSource):
    """An encoder whose tokens are known beforehand."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        side = round(tokens.shape[1] ** 0.5)
        self.tokens = tokens
        self.spec = FeatureSpec(tokens=(tokens.shape[1], tokens.shape[2]), grid=(side, side))

    def load(self) -> None:
        """There is nothing to load."""

    def forward(self, images: Tensor) -> Features:
        return Features(tokens=self.tokens, grid=self.spec.grid, pooled=self.tokens.mean(1))


class GivenTimes(Process):
    """A process that draws the times that are given."""

    def __init__(self, t: Tensor) -> None:
        super().__init__()
        self.t = t

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        return {IMAGE: self.t, FEATURES: self.t}

    def path(self, steps: int) -> Times:
        raise NotImplementedError


def specs_of(streams: Streams) -> dict[str, StreamSpec]:
    """The specs of an image stream and a feature stream without a grid."""
    return {name: StreamSpec(shape=tuple(x.shape[1:])) for name, x in streams.items()}


def objective(
    backbone: Backbone,
    guidance: Guidance,
    streams: Streams,
    t: Tensor | None = None,
    stream_weights: Mapping[str, float] | None = None,
) -> Objective:
    """The objective of a network: `streams` are examples of the image stream and of the features, which are given."""
    source = GivenFeatures(streams[FEATURES])
    channels, height, width = streams[IMAGE].shape[1:]
    specs = specs_of(streams)
    setting = AdapterSetting(features={ENCODER: source.spec}, image=specs[IMAGE])
    adapter: Adapter = Identity(Identity.Config(), setting)
    return Objective(
        backbone=backbone,
        adapter=adapter,
        losses={},
        guidance=guidance,
        process=GivenTimes(torch.zeros(1) if t is None else t),
        codec=Pixels(Pixels.Config(), CodecSetting(image_shape=(channels, height, width))),
        sources={ENCODER: source},
        specs=specs,
        stream_weights=stream_weights or {},
    )
