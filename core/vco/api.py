"""The contracts of vco: THE file to read before writing a plugin.

    Data -> FeatureSource -> Adapter -> streams -> Process (times) -> Guidance (training half) -> Backbone -> Losses
    sampling: noise -> Solver steps along Process.path, each velocity from Guidance over its branches -> images

Conventions that hold everywhere:

* Time `t` runs from 0 = noise to 1 = data; `x_t = t * x + (1 - t) * noise_scale * eps` (`vco.flow`). Networks predict
  the clean streams; velocity = (clean - noisy) / max(1 - t, 0.05).
* Streams: "pixels" is [b, c, h, w] in [-1, 1]; "features" is [b, n, d], tokens in row-major order of their grid; a
  plugin may add others, such as "class_token" [b, 1, d].
* Every component has a nested `Config` (attrs, frozen, keyword-only). Each field has a default, a validator where
  values can be wrong, and a docstring line with its unit and range: the command line's help.
* Output follows input in dtype and device. Row i of an output depends only on row i of the inputs, unless the component
  says `couples_batch`. Inputs are not modified. Randomness comes only from the `torch.Generator` handed in.
* Parameters and buffers of a component are trained, averaged (EMA) and saved. A `FeatureSource` is frozen and is not.
* Shapes in annotations: b batch, c channels, h w height and width, n tokens, d token width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import attrs
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from vco.errors import UserError as UserError
from vco.hooks import hookimpl as hookimpl
from vco.schedule import Schedule

PIXELS = "pixels"
FEATURES = "features"

Streams = dict[str, Tensor]
"""Stream name -> tensor [b, ...]."""
Times = dict[str, Tensor]
"""Stream name -> float32 [b] in [0, 1]; 0 is noise, 1 is data."""


@attrs.frozen(kw_only=True)
class StreamSpec:
    """What one stream looks like, known before any data is read."""

    shape: tuple[int, ...]
    """Shape of one sample: (c, h, w) for pixels, (n, d) for tokens."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the tokens (n = rows * columns), None where there is no grid."""
    noise_scale: float = 1.0
    """Standard deviation of the noise at t = 0."""
    pooled: int | None = None
    """Of an encoder: width e of its pooled vector in `forward`; None where it is d."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a frozen encoder says about a batch of images."""

    tokens: Float[Tensor, "b n d"]
    """Patch tokens, row-major; class and register tokens are not among them."""
    grid: tuple[int, int]
    """Rows and columns; n = rows * columns."""
    pooled: Float[Tensor, "b e"]
    """One vector an image (for example the class token)."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the network is told, and what it must not see, per sample (a dataclass: torch.compile understands those)."""

    labels: Int[Tensor, " b"]
    """Class index; the number of classes stands for "no label" (null)."""
    blocked: Mapping[tuple[str, str], Bool[Tensor, " b"]] = field(default_factory=dict)
    """(query stream, key stream) -> rows in which that query stream must not attend to that key stream."""
    nulled: Mapping[str, Bool[Tensor, " b"]] = field(default_factory=dict)
    """Stream -> rows in which the network is shown `Guidance.null` instead of the noisy stream."""
    supervised: Mapping[str, Bool[Tensor, " b"]] = field(default_factory=dict)
    """Stream -> rows whose denoising loss counts (the mean runs over them); a stream not named counts in every row."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """The same condition with `function` applied to every tensor (slicing rows, moving to a device)."""
        names = ("blocked", "nulled", "supervised")
        masks = {name: {key: function(rows) for key, rows in getattr(self, name).items()} for name in names}
        return replace(self, labels=function(self.labels), **masks)

    @staticmethod
    def concatenate(conditions: "Iterable[Condition]") -> "Condition":
        """Stacks conditions along the batch, so that several branches take one forward pass."""
        parts = list(conditions)

        def stack(masks: Sequence[Mapping[Any, Tensor]]) -> dict[Any, Tensor]:
            nowhere = [torch.zeros_like(part.labels, dtype=torch.bool) for part in parts]
            keys = {key: None for mask in masks for key in mask}
            return {key: torch.cat([m.get(key, none) for m, none in zip(masks, nowhere, strict=True)]) for key in keys}

        masks = {name: stack([getattr(part, name) for part in parts]) for name in ("blocked", "nulled")}
        return Condition(labels=torch.cat([part.labels for part in parts]), **masks)


@dataclass(frozen=True, kw_only=True)
class Tap:
    """Hidden tokens of the pixel stream after a block; knows where they are, so that losses survive token dropping."""

    tokens: Float[Tensor, "b n d"]
    positions: Int[Tensor, " n"]
    """Row-major index of each token in the pixel stream's grid."""


@dataclass(frozen=True, kw_only=True)
class Denoised:
    """A backbone's answer."""

    clean: Streams
    """Prediction of every clean stream; shapes as in the input."""
    taps: Mapping[int, Tap] = field(default_factory=dict)
    """Block number k (1 = after the first block) -> its tokens, for the blocks that were asked for."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """An adapter's answer."""

    value: Streams
    """What is noised and fed to the network."""
    target: Streams
    """What the network's prediction is regressed to; equal to `value`, or detached from it (CoReDi)."""
    losses: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """The adapter's own regularisers, already weighted; they are added to the total."""


class Component(ABC):
    """What all kinds share: a typed config and optional measurements for the log."""

    @attrs.frozen(kw_only=True)
    class Config:
        """What a user may set; field metadata {"sampling": True} says: acts in sampling alone, free after training."""

    config: Any

    def metrics(self) -> Mapping[str, Tensor]:
        """Scalars worth logging (called only at logging steps; may be slow). Default: none."""
        return {}

    def learning_rate_scale(self, step: int) -> float:
        """Factor of its parameters' learning rate at a step; 0 leaves them as they are. Default: 1."""
        return 1.0


class Backbone(Component, nn.Module):
    """The network: noisy streams, their times and a condition in; clean streams out.

    Constructed as `Class(config, streams=specs, num_classes=...)`; raises `UserError` if the streams do not fit.
    """

    streams: ClassVar[tuple[str, ...]] = (PIXELS,)
    """The streams it always denoises."""
    optional_streams: ClassVar[tuple[str, ...]] = ()
    """Streams it can denoise too; an adapter that yields any other one cannot be combined with it."""
    supports_blocking: bool = False
    """Whether `Condition.blocked` is obeyed: blocked keys then change nothing for the blocked queries."""
    blocking_option: str = ""
    """Where only its settings forbid that: options that would allow it, as in "--backbone.fusion token-concat"."""

    depth: int
    """Number of blocks; taps are 1..depth."""
    width: int
    """Token width of the taps."""
    grid: tuple[int, int]
    """Rows and columns of the pixel stream's tokens."""

    @abstractmethod
    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        """Predicts the clean streams from the noisy ones; `taps` are the blocks (1 = first) whose tokens are wanted."""


class FeatureSource(Component, nn.Module):
    """A frozen encoder. Always in eval mode.

    Constructed as `Class(config, image_shape=(c, h, w))`: cheap, sets `spec`, and refuses images that it would crop.
    """

    differentiable: ClassVar[bool] = True
    """Whether gradients reach the images; where not, it serves to score with, not to align to."""
    spec: StreamSpec
    """Shape (n, d) and grid of the tokens of `forward`."""

    def check(self) -> None:
        """Raises `UserError` if weights are missing: what was looked for, how to get it, options as `--.weights`."""

    @abstractmethod
    def load(self) -> None:
        """Builds the network and reads its weights, once, before the first forward; raises as `check` does."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        """Features of images in [-1, 1], as they enter the feature stream."""

    def perceive(self, images: Float[Tensor, "b c h w"]) -> Features:
        """Features as losses compare images in them (docs/concepts.md, "Two views"). Default: those of `forward`."""
        return self(images)

    def train(self, mode: bool = True) -> "FeatureSource":
        """Stays in eval mode, in which no encoder drops tokens."""
        return super().train(False)


class Adapter(Component, nn.Module):
    """Turns encoder features into denoised streams; may learn, may be fitted once, may add losses.

    Constructed as `Class(config, features=spec of the source)`.
    """

    needs_stream: ClassVar[bool] = True
    """Whether it makes sense only with a backbone that denoises its streams (False: idle without one)."""
    needs_fit: bool = False
    """Whether `fit` must run before training."""

    @abstractmethod
    def specs(self) -> dict[str, StreamSpec]:
        """The streams `forward` yields (usually just "features")."""

    def fit(self, batches: Iterable[tuple[Float[Tensor, "_ c h w"], Features]]) -> None:
        """Sets buffers or initial weights in one pass over (images, features) of shuffled training data, in float64.

        What it sets may depend on the config and the data alone, not on the batching: it is kept for other seeds.
        """

    @abstractmethod
    def forward(self, features: Features) -> Adapted:
        """The streams of one batch; `value` may carry gradients, `target` not where a method stops them."""


@attrs.define(kw_only=True, slots=False)
class Step:
    """What a `Loss` knows of a training step. Features are computed once, when first asked for."""

    number: int
    """Optimizer steps done before this one."""
    images: Float[Tensor, "b c h w"]
    """The clean images, in [-1, 1]."""
    labels: Int[Tensor, " b"]
    """The true classes (before any label was dropped)."""
    times: Times
    condition: Condition
    noisy: Streams
    target: Streams
    denoised: Denoised
    source: FeatureSource | None

    @cached_property
    def features(self) -> Features:
        """The feature stream's view of the clean images, without gradient."""
        with torch.no_grad():
            return self._encoder(self.images)

    @cached_property
    def real(self) -> Features:
        """The perceptual view of the clean images, without gradient."""
        has_two_views = type(self._encoder).perceive is not FeatureSource.perceive
        with torch.no_grad():
            return self._encoder.perceive(self.images) if has_two_views else self.features

    @cached_property
    def generated(self) -> Features:
        """The perceptual view of the predicted clean images; gradients reach the prediction through the encoder."""
        if not self._encoder.differentiable:
            raise UserError("a loss needs gradients through --features, which these do not pass: choose others")
        return self._encoder.perceive(self.denoised.clean[PIXELS])

    @property
    def _encoder(self) -> FeatureSource:
        assert self.source is not None, "a loss that reads features must declare needs_features = True"
        return self.source


class Loss(Component, nn.Module):
    """An alignment loss, added to the denoising loss as its config says. Computed in float32.

    Constructed as `Class(config, width=of the taps, tap_grid=of the taps, features=spec of the source or None)`.
    """

    @attrs.frozen(kw_only=True)
    class Config(Schedule, Component.Config):
        """What a user may set, beside what all losses share; the core sees to that."""

    needs_features: ClassVar[bool] = True
    """Whether it reads the feature source (`step.features`, `step.real`, `step.generated`)."""
    grouped: ClassVar[bool] = False
    """Whether it needs batches made of whole class groups (--train.samples-per-class)."""
    couples_batch: ClassVar[bool] = False
    """Whether other samples matter to a sample's loss. Groups stay whole; beyond them it sums over processes itself."""

    @property
    def taps(self) -> tuple[int, ...]:
        """Block numbers (1 = first) whose tokens it reads from `step.denoised.taps`."""
        return ()

    @abstractmethod
    def forward(self, step: Step) -> Mapping[str, Float[Tensor, "*b"]]:
        """Named unweighted terms, one value a sample (or a scalar, where a term belongs to no sample).

        The core takes the mean of a term over the samples that count, and adds it to the total with the loss's weight.
        """


class Guidance(Component, nn.Module):
    """What is hidden from the network in training, and how branches are combined in sampling.

    Constructed as `Class(config, streams=specs, num_classes=...)`; raises `UserError` if a stream it needs is missing.
    """

    needs_blocking: bool = False
    """Whether it blocks attention edges, so that the backbone must support it."""
    weak_run: str | None = None
    """Folder of another run, whose EMA model evaluates the branch "weak"; None if there is no such branch."""

    def null(self, stream: str, x_t: Tensor) -> Tensor:
        """What the network is shown instead of `x_t` in the rows of `Condition.nulled`. Default: zeros."""
        return torch.zeros_like(x_t)

    @abstractmethod
    def condition(self, labels: Int[Tensor, " b"], generator: torch.Generator) -> Condition:
        """Training half: drops labels and blocks edges at random. Called with the whole global batch, on the CPU."""

    @abstractmethod
    def branches(self, labels: Int[Tensor, " b"], times: Mapping[str, float]) -> dict[str, Condition]:
        """Sampling half: what to evaluate at these times; one branch where nothing is guided."""

    @abstractmethod
    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        """The guided velocity of every stream from the branches' velocities (keys as in `branches`)."""


class Process(Component, nn.Module):
    """The joint law of the streams' times in training, and their path in sampling.

    Constructed as `Class(config, streams=names)`.
    """

    @abstractmethod
    def sample(self, batch: int, generator: torch.Generator) -> Times:
        """Training times, float32 [batch] in [0, 1] per stream, on the generator's device."""

    @abstractmethod
    def path(self, steps: int) -> Times:
        """Sampling times, float64 [steps + 1] per stream, never decreasing, from 0 to 1."""

    def weight(self, times: Times) -> Times:
        """Factor of each sample's denoising loss per stream, [b]. Default: 1."""
        return {stream: torch.ones_like(t) for stream, t in times.items()}


Velocity = Callable[[Streams, Mapping[str, float]], Streams]
"""(noisy streams, time of each stream) -> guided velocity of each stream; one network evaluation."""
Noise = Callable[[int], Streams]
"""k -> the k-th fresh noise of every stream, of its scale; row i depends only on k, the seed and the image index."""


class Solver(Component):
    """Integrates dx = v dt for all streams along a path. Constructed as `Class(config)`."""

    @abstractmethod
    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        """From noise to data, float32; `path` is what `Process.path` gives, on the CPU. `state` is not modified."""


class ImageSet(ABC):
    """A labelled list of images that can be read in any order, from any worker process."""

    labels: Int[Tensor, " size"]
    """Class of every image; known without reading the images, so that batches can be grouped."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        """Image `index`; augmented with draws from `generator`, or plain if that is None."""


class Data(Component):
    """A training set and a held-out set. Constructed as `Class(config)`, which must be cheap and read no files."""

    num_classes: int
    image_shape: tuple[int, int, int]
    """(c, h, w) of every image."""

    def check(self) -> None:
        """Raises `UserError` if files it needs are missing, naming the option that says where they are."""

    @abstractmethod
    def train(self) -> ImageSet:
        """The training set."""

    @abstractmethod
    def test(self) -> ImageSet:
        """The held-out set, never trained on."""
