"""Gray squares with captions."""

from collections.abc import Mapping

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vco.api import Data, DataSetting, ImageSet


class _Squares(ImageSet):
    def __init__(self) -> None:
        self.labels: Int[Tensor, " size"] = torch.arange(40) % 10

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        return torch.full((1, 8, 8), 6 * index, dtype=torch.uint8)

    def extras(self, index: int) -> Mapping[str, Tensor]:
        return {"caption": torch.tensor([index / 40, 1.0])}


class Captioned(Data):
    """Image i is filled with 6 i; its caption is (i / 40, 1)."""

    num_classes = 10
    image_shape = (1, 8, 8)

    def __init__(self, config: Data.Config, setting: DataSetting) -> None:
        self.config = config

    def train(self) -> ImageSet:
        return _Squares()

    def test(self) -> ImageSet:
        return _Squares()
