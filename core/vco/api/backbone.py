"""The contract of backbones: the networks that denoise."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import attrs
from jaxtyping import Float, Int
from torch import Tensor, nn

from vco.api.component import Component
from vco.api.condition import Condition
from vco.api.features import FeatureSpec
from vco.api.streams import IMAGE, Streams, StreamSpec, Times
from vco.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Tap:
    """Hidden tokens of the image stream after a block; knows where they are, so that losses survive token dropping.

    In eval mode (sampling, `step.quiet`, `step.teacher`) a tap holds the whole grid in row-major order.
    """

    tokens: Float[Tensor, "b n d"]
    positions: Int[Tensor, " n"] | Int[Tensor, "b n"]
    """Row-major index of each token in the image stream's grid; [b, n] where every sample kept other tokens."""
    others: Mapping[str, Float[Tensor, "b m d"]] = field(default_factory=dict)
    """Streams whose tokens run beside the patches in the same blocks -> their hidden tokens (a class token: m = 1)."""

    def of(self, tokens: Float[Tensor, "b m e"]) -> Float[Tensor, "b n e"]:
        """Those of a whole grid's tokens that stand where the tap's tokens stand."""
        if self.positions.ndim == 1:
            return tokens[:, self.positions]
        return tokens.gather(1, self.positions[..., None].expand(-1, -1, tokens.shape[-1]))


@dataclass(frozen=True, kw_only=True)
class Denoised:
    """A backbone's answer. For every stream it gives the clean prediction or the velocity; the core adds the other.

    The core turns one into the other with `vco.flow`: a clean prediction's velocity is (clean - noisy) / max(1 - t,
    0.05); the clean prediction of a velocity is noisy + (1 - t) * velocity. With `Condition.until` the same formulas
    hold for the mean velocity, and what stands for the clean prediction is then no estimate of the clean stream.
    """

    clean: Streams = field(default_factory=dict)
    """Prediction of clean streams; shapes as in the input."""
    velocity: Streams = field(default_factory=dict)
    """Velocity of streams, dx/dt in our time (from noise to data); with `Condition.until`, the mean velocity."""
    taps: Mapping[int, Tap] = field(default_factory=dict)
    """Block number k (1 = after the first block) -> its tokens, for the blocks that were asked for."""
    context: Mapping[str, Tensor] = field(default_factory=dict)
    """What the network wants to be told when it is asked about the same samples again (self-conditioning), [b, ...].

    In sampling the core hands it over as `Condition.context` of the same branch's next evaluation.
    """


@attrs.frozen(kw_only=True)
class BackboneSetting:
    """What a backbone is told of the run."""

    streams: Mapping[str, StreamSpec]
    """Every stream of the run."""
    num_classes: int
    """Number of classes; the label `num_classes` stands for no label."""
    features: Mapping[str, FeatureSpec] = attrs.field(factory=dict[str, FeatureSpec])
    """Every encoder of the run by its name, in the order of --features."""
    until: bool = False
    """Whether the run tells the network the time that a step goes to (`Condition.until`)."""


@attrs.frozen(kw_only=True)
class PublishedWeights:
    """What is known of a file of weights that somebody has published, before they are given to a network."""

    shapes: Mapping[str, tuple[int, ...]]
    """Name of every tensor, as its authors call it -> its shape."""
    settings: Mapping[str, Any]
    """The plain settings that the file notes, by the names of its authors; empty if it notes none."""
    streams: Mapping[str, StreamSpec]
    """Every stream of the run that is to take the weights."""
    num_classes: int
    """Number of classes of that run."""


class Backbone(Component, nn.Module):
    """The network: noisy streams, their times and a condition in; predictions of the streams out.

    Constructed as `Class(config, BackboneSetting)`; raises `UserError` if the streams do not fit.
    """

    streams: ClassVar[tuple[str, ...]] = (IMAGE,)
    """The streams it always denoises; the image is one of them."""
    optional_streams: ClassVar[tuple[str, ...]] = ()
    """Streams it can denoise too; an adapter that yields any other one cannot be combined with it."""
    takes_idle_streams: ClassVar[bool] = True
    """Whether it denoises its optional streams too where the adapter would as well do without (raw tokens, which
    --adapter none has for networks that want them)."""
    needs_features: ClassVar[bool] = False
    """Whether it is built for an encoder's features although it denoises none (`BackboneSetting.features`)."""
    hands_out: ClassVar[tuple[str, ...]] = ()
    """Names of what it wants to be told again (`Denoised.context`), where a loss may build on it."""
    supports_until: ClassVar[bool] = False
    """Whether it can be told the time that a step goes to (`Condition.until`)."""
    supports_token_times: ClassVar[bool] = False
    """Whether it understands times of single tokens, [b, n], beside those of samples."""
    supports_blocking: bool = False
    """Whether `Condition.blocked` is obeyed: blocked keys then change nothing for the blocked queries."""
    how_to_block: str = ""
    """Options that would make it obey, where only its settings forbid that; as in "--backbone.fusion token-concat"."""
    draws: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    """Uniform random numbers in [0, 1) that it wants with every training sample, as in {"routing": (n,)}.

    Set it in the constructor where shapes depend on the grid. The core draws `[b, *shape]`, float32, from (seed, step,
    slot) and hands them over as `Condition.context` in training. In sampling, and where a loss asks `step.quiet` or
    `step.teacher`, there are none: in eval mode a network keeps every token, in row-major order.
    """

    depth: int
    """Number of blocks; taps are 1..depth."""
    width: int
    """Token width of the taps."""
    grid: tuple[int, int]
    """Rows and columns of the image stream's tokens."""

    @abstractmethod
    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        """Predicts the streams from the noisy ones; `taps` are the blocks (1 = first) whose tokens are wanted."""

    def block_modules(self) -> Sequence[nn.Module]:
        """The modules that hold most of its weights and are computed one after another: usually one for each block.

        The core shares each one's weights out over processes (--train.sharding), keeps what enters it in place of what
        is computed inside (--train.checkpoint-blocks), and compiles it (--train.compile). So `forward` calls each as a
        module, `block(...)`, exactly once. A block is no part of another one, uses no weight outside itself, and does
        the same when it is called again: dropout may draw, but nothing is counted up or left behind. What it does
        depends on no value in a tensor, so that it is one graph. Default: there are none; then the network is gathered
        as a whole, and neither recomputing nor compiling is on offer. (Not named `blocks`, which networks call lists of
        their own.)
        """
        return ()

    def from_published(self, weights: PublishedWeights) -> Mapping[str, str]:
        """Recognises the names in a file that others have published. Default: it knows no such file.

        The core gives each tensor to the parameter or saved buffer that it is mapped to, and refuses a file that leaves
        one out or has another shape; axes of length 1 may be there or not. A name may be mapped to a buffer that is not
        saved, such as a table of positions: the file's values must then be those of the table.

        Args:
            weights: names, shapes and settings in the file, and the run that is to take them.

        Returns:
            Name in the file -> name in this network. Names that are absent are left out, and the user is told so.

        Raises:
            UserError: if it does not recognise the file, or the file needs other options (which the message names).
        """
        raise UserError("it knows no published weights; its author can name them in Backbone.from_published")
