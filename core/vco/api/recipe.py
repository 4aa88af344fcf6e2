"""The contract of recipes: how an encoder is trained."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vco.api.component import Component
from vco.api.features import FeatureSource


@attrs.frozen(kw_only=True)
class RecipeSetting:
    """What a recipe is told of the training."""

    image_shape: tuple[int, int, int]
    """(c, h, w) of the images."""
    num_classes: int
    """Number of classes; 1 means that there are no labels to learn from."""
    class_names: tuple[str, ...]
    """Name of each class."""
    steps: int
    """Steps of the training in all."""
    steps_per_epoch: int
    """Steps in which every training image is seen once."""


class Recipe(Component):
    """How an encoder is trained, for `vco train-encoder`. Constructed as `Class(config, RecipeSetting)`.

    The core reads images, computes gradients, saves `network` and `optimizer`, and scores what `write` has written.
    Random numbers are drawn from torch's, NumPy's or Python's ambient generators: the core seeds all three before the
    construction, and before every step with a function of (seed, step). So a training that goes on after a stop draws
    as one that was not stopped.
    """

    epochs: ClassVar[int] = 100
    """How often every training image is seen, by default."""
    batch_size: ClassVar[int] = 128
    """Images of a step, by default."""
    option: ClassVar[str] = ""
    """The option of the feature source that names the folder; empty where there is none."""
    network: nn.Module
    """All that is trained or averaged: what has parameters or buffers."""
    optimizer: torch.optim.Optimizer
    """What moves the weights."""

    @abstractmethod
    def loss(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Tensor:
        """What is minimised, a scalar, of images in [-1, 1] that the data set may have augmented."""

    def before_step(self, step: int) -> None:
        """Sets learning rates; steps count from 0. Default: nothing."""

    def after_step(self, step: int) -> None:
        """Moves averages. Default: nothing."""

    @abstractmethod
    def write(self, folder: Path) -> FeatureSource:
        """Writes the encoder's files into a folder that is there; the encoder as it is read from them, loaded."""
