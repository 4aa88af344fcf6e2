"""Training steps for tests of losses: what the network has answered is given."""

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from vco.api import IMAGE, CodecSetting, Condition, Denoised, FeatureSource, Step, StreamSpec, Tap, Views
from vco.randomness import RowGenerator
from vco_plugins.codecs.pixels import Pixels


def make_step(
    predicted: Tensor,
    images: Tensor,
    labels: Tensor,
    sources: Mapping[str, FeatureSource],
    taps: Mapping[int, Tap] | None = None,
    **changes: Any,
) -> Step:
    """A step about these images, in which the network has predicted others; losses must read the true labels."""
    spec = StreamSpec(shape=tuple(images.shape[1:]))
    values: dict[str, Any] = {
        "number": 0,
        "images": images,
        "labels": labels,
        "times": {IMAGE: torch.full((len(images),), 0.5)},
        "condition": Condition(labels=torch.full_like(labels, 10)),
        "clean": {IMAGE: images},
        "noise": {IMAGE: torch.zeros_like(images)},
        "noisy": {IMAGE: images},
        "target": {IMAGE: images},
        "specs": {IMAGE: spec},
        "views": Views(sources, images),
        "codec": Pixels(Pixels.Config(), CodecSetting(image_shape=(images.shape[1], images.shape[2], images.shape[3]))),
        "network": never_asked,
        "quiet": never_asked,
        "generator": RowGenerator((0,), range(len(images))),
        "denoised": Denoised(clean={IMAGE: predicted}, taps=taps or {}),
    }
    return Step(**(values | changes))


def never_asked(*arguments: Any) -> NoReturn:
    """A network that nobody should ask again."""
    raise AssertionError("the network was asked")
