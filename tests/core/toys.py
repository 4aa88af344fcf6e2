"""A training objective of toy components, whose numbers a test can work out by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from toy_plugin.networks import Toy
from toy_plugin.sampling import Branches, Tokens

from vco.api import (
    IMAGE,
    AdapterSetting,
    BackboneSetting,
    Codec,
    CodecSetting,
    FeatureSource,
    GuidanceSetting,
    Loss,
    LossSetting,
    Process,
    ProcessSetting,
)
from vco.objective import Draw, Inputs, Objective
from vco.randomness import RowGenerator, noise
from vco_plugins.adapters.identity import Identity
from vco_plugins.codecs.pixels import Pixels

CLASSES = 3
SHAPE = (1, 8, 8)


def codec_of(cls: type[Codec] = Pixels, **options: Any) -> Codec:
    """A codec of images of the toys' shape."""
    return cls(cls.Config(**options), CodecSetting(image_shape=SHAPE))


def make(
    losses: Mapping[str, type[Loss]] | None = None,
    *,
    configs: Mapping[str, Any] | None = None,
    codec: Codec | None = None,
    process: type[Process] = Tokens,
    sources: Mapping[str, FeatureSource] | None = None,
    stream_weights: Mapping[str, float] | None = None,
    until: float = 1.0,
    **network: Any,
) -> Objective:
    """An objective with one stream.

    Args:
        losses: name -> class.
        configs: name of a loss -> its config; by default its defaults.
        codec: pixels, if it is not given.
        process: the times of tokens, if it is not given.
        sources: the encoders.
        stream_weights: --train.stream-weights.
        until: where guidance ends.
        network: options of the toy network.
    """
    codec = codec or codec_of()
    streams = {IMAGE: codec.spec}
    backbone = Toy(Toy.Config(**network), BackboneSetting(streams=streams, num_classes=CLASSES))
    features = {name: source.spec for name, source in (sources or {}).items()}
    setting = LossSetting(
        width=backbone.width,
        grid=backbone.grid,
        depth=backbone.depth,
        features=features,
        streams=streams,
        num_classes=CLASSES,
    )
    configs = configs or {}
    built = {name: cls(configs.get(name, cls.Config()), setting) for name, cls in (losses or {}).items()}
    return Objective(
        backbone=backbone,
        adapter=Identity(Identity.Config(), AdapterSetting(features=features, image=codec.spec)),
        losses=built,
        guidance=Branches(Branches.Config(until=until), GuidanceSetting(streams=streams, num_classes=CLASSES)),
        process=process(process.Config(), ProcessSetting(streams=streams)),
        codec=codec,
        sources=sources or {},
        specs=streams,
        stream_weights=stream_weights or {},
    )


def network_of(objective: Objective) -> Toy:
    """Its network."""
    assert isinstance(objective.backbone, Toy)
    return objective.backbone


def inputs(rows: Sequence[int] = range(4), **changes: Any) -> Inputs:
    """Images, labels and noise of some slots; what a slot gets does not depend on the others."""
    images = torch.stack([torch.rand(SHAPE, generator=torch.Generator().manual_seed(row)) for row in rows]) * 2 - 1
    values: dict[str, Any] = {
        "images": images,
        "labels": torch.tensor(list(rows)) % CLASSES,
        "noise": noise({IMAGE: SHAPE}, rows, 0, "noise"),
        "generator": RowGenerator((0, "draws"), rows),
    }
    return Inputs(**(values | changes))


def draw(objective: Objective, rows: int = 4, step: int = 0) -> Draw:
    """The random part of a step of as many rows."""
    return objective.draw(torch.arange(rows) % CLASSES, seed=0, step=step)
