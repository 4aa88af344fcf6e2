"""The embedded data set: real handwritten digits that come with scikit-learn."""

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vco.api import Data, DataSetting, ImageSet

TRAIN_SIZE = 1500


class Digits(Data):
    """1,797 real handwritten digits of 8x8 gray pixels, 1,500 to train on (UCI, through scikit-learn).

    The split is a fixed permutation of the whole set, not stratified by class. Pixels are 0..16 in the source
    and become round(value * 255 / 16). Nothing is augmented.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI, test part.
    """

    num_classes = 10
    image_shape = (1, 8, 8)

    def __init__(self, config: Data.Config, setting: DataSetting) -> None:
        self.config = config

    def train(self) -> ImageSet:
        return _split(slice(None, TRAIN_SIZE))

    def test(self) -> ImageSet:
        return _split(slice(TRAIN_SIZE, None))


class _Rows(ImageSet):
    def __init__(self, images: UInt8[Tensor, "size 1 8 8"], labels: Int[Tensor, " size"]) -> None:
        self.images, self.labels = images, labels

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        return self.images[index].clone()  # the caller may write into it


def _split(part: slice) -> ImageSet:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    # RandomState and not a newer generator: NumPy guarantees that its stream, so the split, never changes
    rows = np.random.RandomState(0).permutation(len(labels))[part]
    levels = np.rint(values[rows] * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return _Rows(torch.from_numpy(levels), torch.from_numpy(labels[rows]).long())
