"""One JiT for several streams: V-Co's ablation of how pixels and features meet, Latent Forcing and REG."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import attrs
import torch
from attrs.validators import ge, in_, optional
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vco.api import FEATURES, PIXELS, Backbone, Condition, Denoised, Streams, StreamSpec, Tap, Times, UserError
from vco_plugins.layers import (
    Attention,
    Block,
    Conditioning,
    Head,
    PatchEmbed,
    Rope2d,
    StreamBlock,
    TimeEmbed,
    TokenEmbed,
    joint_attention,
    linear,
    modulate,
    sincos_2d,
    unpatchify,
)
from vco_plugins.sizes import TransformerConfig, patch_grid

CLASS_TOKEN = "class_token"
Fusion = Literal["shared-qkv", "token-concat", "channel-concat", "direct-addition"]
MERGED = ("channel-concat", "direct-addition")
"""The fusions after which pixels and features are the same tokens."""


class JiTJoint(Backbone):
    """One trunk for pixels and features, which meet as `fusion` says [V-Co's ablation, Latent Forcing, REG].

    - `shared-qkv`: two sequences with joint attention; its weights are shared, norms, adaLN and MLPs are not.
    - `token-concat`: one sequence, pixels then features, in which all weights are shared.
    - `channel-concat`: a linear map of both channels to one token per patch, and one back to two after the trunk.
    - `direct-addition`: the sum of both embeddings; after the trunk both streams start from the same tokens.

    In-context class tokens stand in front of the first sequence, with `shared-qkv` in front of both. After the trunk
    (and without them) each stream may have `own_blocks`; then each has its own head. Taps number the trunk's blocks,
    then the pixels' own.

    A class token [b, 1, d] joins as one more token in front of the features (of the pixels if there are none or they
    are merged), through Linear and LayerNorm and without a position; it is read out after that stream's final norm.
    It counts as part of the stream it stands in where attention is blocked. With a class token alone the fusion must be
    `token-concat`.

    Raises:
        UserError: If the patch does not divide the image, the features' grid is not the patches', or the streams do not
            suit the fusion; from `forward` if attention is to be blocked between streams that are merged.

    Source: V-Co (arXiv 2603.16792), ablation of fusions; Latent Forcing (arXiv 2602.11401); REG (arXiv 2507.01467).
    """

    streams: ClassVar[tuple[str, ...]] = (PIXELS,)
    optional_streams: ClassVar[tuple[str, ...]] = (FEATURES, CLASS_TOKEN)
    supports_blocking: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(TransformerConfig):
        """What a user may set; depth and size are those of the trunk."""

        fusion: Fusion = attrs.field(default="token-concat", validator=in_(get_args(Fusion)))
        """How pixels and features meet: as two sequences or one (shared-qkv, token-concat), or in the same tokens."""
        own_blocks: int | None = attrs.field(default=None, validator=optional(ge(0)))
        """Blocks of each stream after the trunk, at least 0; by default 2 where streams are merged, else 0."""
        time_embedding: Literal["shared", "separate"] = attrs.field(
            default="shared", validator=in_(("shared", "separate"))
        )
        """Whether the network is told the pixels' time alone, or every stream's time through an embedding of its own."""

        @property
        def merged(self) -> bool:
            """Whether pixels and features are the same tokens in the trunk."""
            return self.fusion in MERGED

    fuse: "ChannelConcat | DirectAddition | None"
    class_token: "ClassToken | None"

    def __init__(self, config: Config, *, streams: Mapping[str, StreamSpec], num_classes: int) -> None:
        super().__init__()
        _check_streams(config, streams)
        self.config = config
        size = config.resolved
        own_blocks = config.own_blocks if config.own_blocks is not None else 2 * config.merged
        self.patch = patch = config.patch
        channels = streams[PIXELS].shape[0]
        self.trunk_depth, self.depth, self.width = size.depth, size.depth + own_blocks, size.width
        self.grid = patch_grid(streams[PIXELS], patch)
        self.context_start = size.context_start
        self.patches = self.grid[0] * self.grid[1]
        grid_streams = tuple(name for name in (PIXELS, FEATURES) if name in streams)
        self.last = grid_streams[-1]
        """The stream that the class token belongs to after the trunk."""

        self.conditioning = Conditioning(self.width, num_classes, config.context_tokens)
        separate = [name for name in streams if name != PIXELS and config.time_embedding == "separate"]
        self.other_times = nn.ModuleDict({name: TimeEmbed(self.width) for name in separate})
        self.embeds = nn.ModuleDict({PIXELS: PatchEmbed(channels, patch, size.bottleneck, self.width)})
        self.heads = nn.ModuleDict({PIXELS: Head(self.width, channels * patch**2)})
        if FEATURES in streams:
            features = streams[FEATURES].shape[-1]
            self.embeds[FEATURES] = TokenEmbed(features, size.bottleneck, self.width)
            self.heads[FEATURES] = Head(self.width, features)
        has_class = CLASS_TOKEN in streams
        self.class_token = ClassToken(self.width, streams[CLASS_TOKEN].shape[-1]) if has_class else None
        self.register_buffer("positions", sincos_2d(self.grid, self.width), persistent=False)
        self.rope = Rope2d(self.width // size.heads, self.grid, config.context_tokens + has_class)
        self.fuse = None
        if config.merged:
            self.fuse = ChannelConcat(self.width) if config.fusion == "channel-concat" else DirectAddition()
        self.blocks = nn.ModuleList(
            TrunkBlock(
                self.width,
                size.heads,
                config.mlp_ratio,
                config.block_dropout(number),
                own=grid_streams if config.fusion == "shared-qkv" else (),
            )
            for number in range(size.depth)
        )
        self.own_blocks = nn.ModuleList(
            nn.ModuleDict({name: Block(self.width, size.heads, config.mlp_ratio) for name in grid_streams})
            for _ in range(own_blocks)
        )
