"""The contract of feature sources: frozen encoders."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import attrs
from jaxtyping import Float
from torch import Tensor, nn

from vco.api.component import Component
from vco.errors import UserError


@attrs.frozen(kw_only=True)
class FeatureSpec:
    """What the features of one encoder look like, known before its weights are read."""

    tokens: tuple[int, int]
    """Number n of patch tokens and their width d."""
    grid: tuple[int, int]
    """Rows and columns of the patch tokens (n = rows * columns)."""
    pooled: int = attrs.field(default=attrs.Factory(lambda self: self.tokens[1], takes_self=True))
    """Width e of the pooled vector of `FeatureSource.forward`; by default d."""
    classes: int = 0
    """Number k of classes that it tells images into; 0 if it is no classifier."""
    remark: str = ""
    """What a reader of results has to know of it, as "random weights"."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a frozen encoder says about a batch of images."""

    tokens: Float[Tensor, "b n d"]
    """Patch tokens, row-major; class and register tokens are not among them."""
    grid: tuple[int, int]
    """Rows and columns; n = rows * columns."""
    pooled: Float[Tensor, "b e"]
    """One vector an image (for example the class token)."""
    logits: Float[Tensor, "b k"] | None = None
    """What a classifier says of its classes, before the softmax; None if it is none."""
    perceived: "Features | None" = None
    """What `FeatureSource.perceive` says of the same images, where `forward` found it in the same pass of the network;
    None where that takes a pass of its own."""


@attrs.frozen(kw_only=True)
class FeatureSetting:
    """What a feature source is told of the run."""

    image_shape: tuple[int, int, int]
    """(c, h, w) of the images."""


class FeatureSource(Component, nn.Module):
    """A frozen encoder. Always in eval mode.

    Constructed as `Class(config, FeatureSetting)`: cheap, sets `spec`, and refuses images that it would crop.
    """

    differentiable: ClassVar[bool] = True
    """Whether gradients reach the images; where not, it serves to score with, not to align to."""
    recipe: ClassVar[str] = ""
    """How such an encoder is trained: "module:Class" of a `Recipe`, for `vco train-encoder`. Empty: it is only read."""
    spec: FeatureSpec
    """Tokens, grid and pooled width of `forward`."""

    def check(self) -> None:
        """Raises `UserError` if weights are missing: what was looked for, how to get it, options as `--.weights`."""

    @abstractmethod
    def load(self) -> None:
        """Builds the network and reads its weights, once, before the first forward; raises as `check` does."""

    def sketch(self) -> None:
        """Builds the network like `load`, with weights of any value and, if it can be, without files.

        It is called where tensors have no content, to count what the network takes. Default: `load`.
        """
        self.load()

    @abstractmethod
    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        """Features of images in [-1, 1], as they enter the feature stream."""

    def block_modules(self) -> Sequence[nn.Module]:
        """The modules that do most of its work, once it is loaded: usually one for each block, none inside another.

        The core compiles them (--train.compile) where features are computed for training. Default: none.
        """
        return ()

    def perceive(self, images: Float[Tensor, "b c h w"]) -> Features:
        """Features as losses compare images in them (docs/concepts.md, "Two views"). Default: those of `forward`."""
        return self(images)

    def train(self, mode: bool = True) -> "FeatureSource":
        """Stays in eval mode, in which no encoder drops tokens."""
        return super().train(False)


@attrs.frozen(kw_only=True, slots=False)  # a class of slots cannot stand beside another one with fields
class ReadsFeatures:
    """The option with which an adapter or a loss says which encoder it reads; a `Config` inherits from it too."""

    features: str = ""
    """Name of the encoder that is read, one of those chosen with --features; by default the first."""


def chosen_features(features: Mapping[str, FeatureSpec], name: str) -> tuple[str, FeatureSpec]:
    """Name and spec of the encoder that the option `features` names, the first one if it names none.

    Raises:
        UserError: if the run has no encoder of that name, or none at all.
    """
    if not features:
        raise UserError("it reads encoder features, and this run has no encoder: choose one with --features")
    name = name or next(iter(features))
    if name not in features:
        raise UserError(f"--.features {name}: this run has no such encoder; choose one of {', '.join(features)}")
    return name, features[name]
