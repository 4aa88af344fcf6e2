"""The data set `my-data`: labelled images, to train on and held out.

The contracts are `vco.api.Data` and `vco.api.ImageSet`. The encoders of the default run read gray 8x8 images, such as
these; for others choose `--features` and the encoder of `--metric`. Captions, or features that were computed before,
travel with the images if `ImageSet.extras` returns them.
"""

import math

import attrs
import torch
from attrs.validators import and_, ge, le
from jaxtyping import UInt8
from torch import Tensor

from vco.api import Data, DataSetting, ImageSet


class MyData(Data):
    """A bright bar on black, whose direction is the class; drawn by a formula, so that there is nothing to download."""

    @attrs.frozen(kw_only=True)
    class Config(Data.Config):
        """What a user may set."""

        size: int = attrs.field(default=8, validator=ge(4))
        """Height and width of the images in pixels, at least 4."""
        classes: int = attrs.field(default=10, validator=ge(1))
        """Number of directions, evenly spread over half a turn, at least 1."""
        per_class: int = attrs.field(default=100, validator=ge(1))
        """Number of training images of each class, at least 1; half as many are held out."""
        dimming: float = attrs.field(default=0.3, validator=and_(ge(0.0), le(1.0)))
        """Augmentation: share of its light that a training image may lose, in [0, 1]."""

    def __init__(self, config: Config, setting: DataSetting) -> None:
        """Cheap: says what images there will be, and reads none. If files can be missing, `check` says which."""
        self.config = config
        self.num_classes = config.classes
        self.image_shape = (1, config.size, config.size)

    def train(self) -> ImageSet:
        """The training set."""
        return Bars(self.config, per_class=self.config.per_class, seed=0)

    def test(self) -> ImageSet:
        """The held-out set, never trained on."""
        return Bars(self.config, per_class=(self.config.per_class + 1) // 2, seed=1)


class Bars(ImageSet):
    """A list of images whose labels are known without reading them; `image` may be called in any process and order."""

    def __init__(self, config: MyData.Config, *, per_class: int, seed: int) -> None:
        self.config = config
        self.labels = torch.arange(config.classes).repeat(per_class)
        self.places = torch.rand(len(self.labels), generator=torch.Generator().manual_seed(seed)) - 0.5

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        """Image `index` in 0..255: augmented with draws from `generator` alone, or plain if that is None."""
        angle = math.pi * int(self.labels[index]) / self.config.classes
        axis = torch.linspace(-1, 1, self.config.size)
        distance = axis * math.cos(angle) + axis[:, None] * math.sin(angle) - self.places[index]
        light = (1 - 2 * distance.abs()).clamp(min=0)
        if generator is not None:
            light = light * (1 - self.config.dimming * torch.rand((), generator=generator))
        return (255 * light).round().to(torch.uint8)[None]
