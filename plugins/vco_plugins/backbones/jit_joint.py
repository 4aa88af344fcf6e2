"""One JiT for several streams: V-Co's ablation of how pixels and features meet, Latent Forcing and REG."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import attrs
import torch
from attrs.validators import ge, in_, optional
from torch import Tensor, nn

from vco.api import (
    FEATURES,
    IMAGE,
    Backbone,
    BackboneSetting,
    Condition,
    Denoised,
    PublishedWeights,
    Streams,
    StreamSpec,
    Tap,
    Times,
    UserError,
)
from vco_plugins.jit_config import Size, TransformerConfig, patch_grid, require_same_grid
from vco_plugins.layers import (
    CLASS_TOKEN,
    Block,
    ClassToken,
    Conditioning,
    Head,
    PatchEmbed,
    Rope2d,
    TimeEmbed,
    TokenEmbed,
    linear,
    sincos_2d,
    told_together,
    unpatchify,
)
from vco_plugins.published import recognise
from vco_plugins.published_latent_forcing import is_latent_forcing, recognise_latent_forcing
from vco_plugins.trunk import Blocked, Merge, TrunkBlock

Fusion = Literal["shared-qkv", "token-concat", "channel-concat", "direct-addition"]


def _leaves_a_trunk(config: "JiTJoint.Config", attribute: "attrs.Attribute[int | None]", value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError(f"own_blocks must be at least 0, got {value}")
    trunk, own = config.trunk, config.own
    if trunk.depth < 1:
        raise ValueError(f"own_blocks ({own}) must be below the depth ({config.resolved.depth}), which counts them too")
    if config.context_tokens and trunk.context_start >= trunk.depth:
        raise ValueError(
            f"own_blocks ({own}) leave a trunk of {trunk.depth}, but the in-context tokens join after "
            f"{trunk.context_start} blocks: set more depth, fewer own_blocks or a context_start below {trunk.depth}"
        )


def _fits_whole_heads(config: "JiTJoint.Config", attribute: "attrs.Attribute[int | None]", value: int | None) -> None:
    if value is None:
        return
    if not config.own:
        raise ValueError(f"own_width ({value}) is the width of the own blocks, of which there are none: set own_blocks")
    size = config.resolved
    head = size.width // max(size.heads, 1)
    if value < 1 or value % head:
        raise ValueError(f"own_width ({value}) must be a multiple of the width of a head ({head})")


class JiTJoint(Backbone):
    """A network whose blocks all streams share, and then blocks of each stream's own [V-Co; Latent Forcing; REG].

    The shared blocks are the trunk. `fusion` says how image and features meet in it:

    - `shared-qkv`: two sequences with joint attention; its weights are shared, norms, adaLN and MLPs are not.
    - `token-concat`: one sequence, first the image's tokens, then the features'; all weights are shared.
    - `channel-concat`: a linear layer merges both tokens of a patch, another one parts them after the trunk.
    - `direct-addition`: both tokens of a patch are added, and parted likewise; their position is added once.

    In-context class tokens stand in front of the image (with `shared-qkv` of the features too) until the trunk ends.
    Then each stream goes through a linear layer and its `own_blocks`, which may have a width of their own, and through
    its head; merged streams without own blocks share one head. Taps number the trunk's blocks and then the image's own
    ones; where those have another width than the trunk, only the trunk's.

    The published networks: V-Co's token-concat (265 M parameters) is --backbone.width 1024 --backbone.heads 16
    --backbone.own-blocks 6 --backbone.own-width 768 --backbone.time-embedding separate. Latent Forcing's of 465 M is
    --backbone.fusion direct-addition --backbone.size L --backbone.depth 22 --backbone.context-start 8
    --backbone.time-embedding separate.

    A stream "class_token" [b, 1, d] becomes one more token without a position in front of the features, or of the
    image where that is alone or merged. It shares that stream's own blocks and final norm, and is blocked with it.

    Where every token has a time of its own, the tokens at one place of both streams are modulated alike, and in-context
    tokens go by the mean of the sample's times.

    Raises:
        UserError: If the patch does not divide the image, the features' grid is not the patches', or the streams do not
            suit the fusion; from `forward` if merged streams are to be blocked, or a class token meets times of tokens.

    Source: V-Co (arXiv 2603.16792), ablation of fusions; Latent Forcing (arXiv 2602.11401); REG (arXiv 2507.01467).
    """

    streams: ClassVar[tuple[str, ...]] = (IMAGE,)
    optional_streams: ClassVar[tuple[str, ...]] = (FEATURES, CLASS_TOKEN)
    supports_token_times: ClassVar[bool] = True
    supports_blocking = True
    positions: Tensor
    how_to_block = "--backbone.fusion token-concat (or shared-qkv)"

    @attrs.frozen(kw_only=True)
    class Config(TransformerConfig):
        """What a user may set; `depth` counts the trunk and the own blocks, all other sizes are the trunk's."""

        fusion: Fusion = attrs.field(default="token-concat", validator=in_(get_args(Fusion)))
        """How image and features meet: in one attention (shared-qkv, token-concat) or in the same tokens."""
        own_blocks: int | None = attrs.field(default=None, validator=_leaves_a_trunk)
        """How many of the blocks, the last ones, each stream has for itself, at least 0 and below the depth; by default
        2 where the streams are merged, else 0."""
        own_width: int | None = attrs.field(default=None, validator=_fits_whole_heads)
        """Token width of the own blocks, a multiple of a head's width; by default the trunk's."""
        feature_bottleneck: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Width that features are squeezed to before embedding, at least 1; by default as `bottleneck`."""
        time_embedding: Literal["shared", "separate"] = attrs.field(
            default="shared", validator=in_(("shared", "separate"))
        )
        """What the network is told of time: that of the image, or the sum of an embedding of each stream's own."""

        @property
        def merged(self) -> bool:
            """Whether image and features are the same tokens in the trunk."""
            return self.fusion in ("channel-concat", "direct-addition")

        @property
        def own(self) -> int:
            """Number of own blocks of each stream."""
            return (2 if self.merged else 0) if self.own_blocks is None else self.own_blocks

        @property
        def trunk(self) -> Size:
            """The numbers of the trunk: the size less the own blocks."""
            size = self.resolved
            depth = size.depth - self.own
            derived = self.depth is not None and self.context_start is None
            return attrs.evolve(size, depth=depth, context_start=depth // 3 if derived else size.context_start)

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        super().__init__()
        streams = setting.streams
        self.config, self.patch = config, config.patch
        self.grid = patch_grid(streams[IMAGE], self.patch)
        _check_streams(config, streams)
        trunk = config.trunk
        own_width = config.own_width or trunk.width
        self.width = trunk.width
        self.depth = trunk.depth + (config.own if own_width == trunk.width else 0)
        self.context_start = trunk.context_start
        self.supports_blocking = not config.merged
        names = tuple(name for name in (IMAGE, FEATURES) if name in streams)

        self.conditioning = Conditioning(self.width, setting.num_classes, config.context_tokens)
        timed = [name for name in streams if name != IMAGE and config.time_embedding == "separate"]
        self.other_times: Any = nn.ModuleDict({name: TimeEmbed(self.width, config.context_tokens) for name in timed})
        channels = streams[IMAGE].shape[0]
        self.embeds: Any = nn.ModuleDict({IMAGE: PatchEmbed(channels, self.patch, trunk.bottleneck, self.width)})
        self.outputs = {IMAGE: channels * self.patch**2}
        if FEATURES in streams:
            features = self.outputs[FEATURES] = streams[FEATURES].shape[-1]
            squeezed = trunk.bottleneck if config.feature_bottleneck is None else config.feature_bottleneck
            xavier = config.fusion == "direct-addition"
            self.embeds[FEATURES] = TokenEmbed(features, squeezed, self.width, xavier=xavier)
        parted = {"patches": sum(self.outputs.values())} if config.merged and not config.own else self.outputs
        self.heads: Any = nn.ModuleDict({name: Head(own_width, n, told=self.width) for name, n in parted.items()})
        entangled = CLASS_TOKEN in streams
        self.class_token = ClassToken(self.width, own_width, streams[CLASS_TOKEN].shape[-1]) if entangled else None
        self.register_buffer("positions", sincos_2d(self.grid, self.width), persistent=False)
        self.rope = Rope2d(self.width // trunk.heads, self.grid, config.context_tokens + entangled)
        parts = own_width if config.own else None
        self.merge = Merge(self.width, parts, config.fusion == "channel-concat") if config.merged else None
        self.context_streams = names if config.fusion == "shared-qkv" else (IMAGE,)
        dropout = TransformerConfig(depth=trunk.depth, dropout=config.dropout).block_dropout
        self.blocks: Any = nn.ModuleList(
            TrunkBlock(
                self.width,
                trunk.heads,
                config.mlp_ratio,
                dropout(number),
                own=names if config.fusion == "shared-qkv" else (),
            )
            for number in range(trunk.depth)
        )
        own_heads = trunk.heads * own_width // trunk.width
        self.own_blocks: Any = nn.ModuleList(
            nn.ModuleDict({name: Block(own_width, own_heads, config.mlp_ratio, told=self.width) for name in names})
            for _ in range(config.own)
        )
        entered = names if config.own and not config.merged else ()
        self.own_inputs: Any = nn.ModuleDict({name: linear(self.width, own_width) for name in entered})

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        self._check_edges(condition.blocked)
        c, context = self.conditioning(times[IMAGE], condition.labels)
        for name, embed in self.other_times.items():
            c = told_together(c, embed(times[name]))
        if self.class_token is not None and c.ndim == 3 and c.shape[1] > 1:
            raise UserError("backbone jit-joint takes no times per token beside a class token, which has no place")
        x = {name: embed(noisy[name]) for name, embed in self.embeds.items()}
        patches, last = x[IMAGE].shape[1], list(x)[-1]
        x = self._placed(x)
        if self.class_token is not None:
            front = list(x)[-1]
            x[front] = torch.cat([self.class_token.embed(noisy[CLASS_TOKEN]), x[front]], dim=1)
        lengths = {name: tokens.shape[1] for name, tokens in x.items()}

        tapped: list[tuple[Tensor, Streams]] = []
        for number, block in enumerate(self.blocks):
            if number == self.context_start:
                x |= {name: torch.cat([context.to(x[name].dtype), x[name]], dim=1) for name in self.context_streams}
            x = block(x, c, self.rope, condition.blocked)
            tapped.append((x[IMAGE][:, -patches:], self._beside(x, patches)))
        x = {name: tokens[:, -lengths[name] :] for name, tokens in x.items()}
        if self.merge is not None and self.own_blocks:
            x = self.merge.part(x[IMAGE], patches)
        x |= {name: layer(x[name]) for name, layer in self.own_inputs.items()}
        for blocks in self.own_blocks:
            x = {name: block(x[name], c, self.rope) for name, block in blocks.items()}
            tapped.append((x[IMAGE][:, -patches:], self._beside(x, patches)))

        if "patches" in self.heads:
            both = self.heads["patches"](x[IMAGE][:, -patches:], c)
            clean = dict(zip(self.outputs, both.split(list(self.outputs.values()), dim=-1), strict=True))
        else:
            clean = {name: head(x[name][:, -patches:], c) for name, head in self.heads.items()}
        clean[IMAGE] = unpatchify(clean[IMAGE], self.grid, self.patch)
        if self.class_token is not None:
            front = last if last in x else IMAGE
            clean[CLASS_TOKEN] = self.class_token.read(x[front][:, :1], list(self.heads.values())[-1], c)
        positions = torch.arange(patches, device=c.device)
        return Denoised(
            clean={name: prediction.to(noisy[name].dtype) for name, prediction in clean.items()},
            taps={k: Tap(tokens=tapped[k - 1][0], positions=positions, others=tapped[k - 1][1]) for k in taps},
        )

    def block_modules(self) -> Sequence[nn.Module]:
        return [*self.blocks, *(block for of_streams in self.own_blocks for block in of_streams.values())]

    def from_published(self, weights: PublishedWeights) -> Mapping[str, str]:
        if is_latent_forcing(weights.shapes):
            return recognise_latent_forcing(weights, self.config)
        return recognise(weights, "jit-joint", self.config)

    def _beside(self, x: Streams, patches: int) -> Streams:
        """The hidden class token, which stands in front of the last stream's patches."""
        last = list(x.values())[-1]
        return {CLASS_TOKEN: last[:, -patches - 1 : -patches]} if self.class_token is not None else {}

    def _placed(self, x: Streams) -> Streams:
        """Both streams' tokens, or those they are merged to, told their positions."""
        if self.config.fusion == "direct-addition":
            return {IMAGE: x[IMAGE] + x[FEATURES] + self.positions}
        x = {name: tokens + self.positions for name, tokens in x.items()}
        return x if self.merge is None else {IMAGE: self.merge.join(x)}

    def _check_edges(self, blocked: Blocked) -> None:
        if self.merge is not None and blocked:
            raise UserError(
                f"--backbone.fusion {self.config.fusion} merges image and features, so that attention between them "
                "cannot be blocked: choose --guidance cfg, or the fusion shared-qkv or token-concat"
            )
        if any(CLASS_TOKEN in edge for edge in blocked):
            raise UserError("backbone jit-joint blocks the class token with the stream it stands in, not on its own")


def _check_streams(config: JiTJoint.Config, streams: Mapping[str, StreamSpec]) -> None:
    """Raises `UserError` if the streams do not suit the fusion or the patches."""
    if FEATURES in streams:
        require_same_grid(streams, config.patch)
    if FEATURES not in streams and (config.fusion != "token-concat" or CLASS_TOKEN not in streams):
        raise UserError(
            f"--backbone.fusion {config.fusion} joins image and features, but this run has only {', '.join(streams)}: "
            "choose an adapter that makes features, --backbone jit for the image, or token-concat for a class token"
        )
    if CLASS_TOKEN in streams and streams[CLASS_TOKEN].shape[0] != 1:
        raise UserError(f"A class token is one token an image, but the adapter makes {streams[CLASS_TOKEN].shape[0]}")
