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
    Tokens,
    joint_attention,
    linear,
    modulate,
    sincos_2d,
    unpatchify,
)
from vco_plugins.sizes import TransformerConfig, patch_grid, require_same_grid

CLASS_TOKEN = "class_token"
Fusion = Literal["shared-qkv", "token-concat", "channel-concat", "direct-addition"]
Blocked = Mapping[tuple[str, str], Bool[Tensor, " b"]]


class JiTJoint(Backbone):
    """One trunk in which pixels and features meet as `fusion` says [V-Co's ablation; Latent Forcing; REG].

    - `shared-qkv`: two sequences with joint attention; its weights are shared, norms, adaLN and MLPs are not.
    - `token-concat`: one sequence, first pixels, then features; all weights are shared.
    - `channel-concat`: a linear layer merges both tokens of a patch, another one parts them after the trunk.
    - `direct-addition`: both tokens of a patch are added, and parted likewise. With two own blocks, separate time
      embeddings, --backbone.size L and --backbone.depth 20 this is Latent Forcing's network of 465 M parameters.

    In-context class tokens stand in front of the pixels (with `shared-qkv` of the features too) until the trunk ends.
    `own_blocks` and a head of each stream follow. Taps number the trunk's blocks, then the pixels' own.

    A stream "class_token" [b, 1, d] becomes one more token without a position in front of the features, or of the
    pixels where these are alone or merged. It shares that stream's final norm, and its fate where attention is blocked.

    Raises:
        UserError: If the patch does not divide the image, the features' grid is not the patches', or the streams do not
            suit the fusion; from `forward` if merged streams are to be blocked from each other.

    Source: V-Co (arXiv 2603.16792), ablation of fusions; Latent Forcing (arXiv 2602.11401); REG (arXiv 2507.01467).
    """

    streams: ClassVar[tuple[str, ...]] = (PIXELS,)
    optional_streams: ClassVar[tuple[str, ...]] = (FEATURES, CLASS_TOKEN)
    supports_blocking = True
    blocking_option = "--backbone.fusion token-concat (or shared-qkv)"

    @attrs.frozen(kw_only=True)
    class Config(TransformerConfig):
        """What a user may set; size and depth are the trunk's."""

        fusion: Fusion = attrs.field(default="token-concat", validator=in_(get_args(Fusion)))
        """How pixels and features meet: in one attention (shared-qkv, token-concat) or in the same tokens."""
        own_blocks: int | None = attrs.field(default=None, validator=optional(ge(0)))
        """Blocks of each stream after the trunk, at least 0; by default 2 where the streams are merged, else 0."""
        time_embedding: Literal["shared", "separate"] = attrs.field(
            default="shared", validator=in_(("shared", "separate"))
        )
        """What the network is told of time: that of the pixels, or the sum of an embedding of each stream's own."""

        @property
        def merged(self) -> bool:
            """Whether pixels and features are the same tokens in the trunk."""
            return self.fusion in ("channel-concat", "direct-addition")

    def __init__(self, config: Config, *, streams: Mapping[str, StreamSpec], num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.patch = config.patch
        self.grid = patch_grid(streams[PIXELS], self.patch)
        _check_streams(config, streams)
        size = config.resolved
        own_blocks = (2 if config.merged else 0) if config.own_blocks is None else config.own_blocks
        self.depth, self.width = size.depth + own_blocks, size.width
        self.context_start = size.context_start
        self.supports_blocking = not config.merged
        names = tuple(name for name in (PIXELS, FEATURES) if name in streams)

        self.conditioning = Conditioning(self.width, num_classes, config.context_tokens)
        timed = [name for name in streams if name != PIXELS and config.time_embedding == "separate"]
        self.other_times: Any = nn.ModuleDict({name: TimeEmbed(self.width) for name in timed})
        channels = streams[PIXELS].shape[0]
        self.embeds: Any = nn.ModuleDict({PIXELS: PatchEmbed(channels, self.patch, size.bottleneck, self.width)})
        self.heads: Any = nn.ModuleDict({PIXELS: Head(self.width, channels * self.patch**2)})
        if FEATURES in streams:
            features = streams[FEATURES].shape[-1]
            self.embeds[FEATURES] = TokenEmbed(features, size.bottleneck, self.width)
            self.heads[FEATURES] = Head(self.width, features)
        entangled = CLASS_TOKEN in streams
        self.class_token = ClassToken(self.width, streams[CLASS_TOKEN].shape[-1]) if entangled else None
        self.register_buffer("positions", sincos_2d(self.grid, self.width), persistent=False)
        self.rope = Rope2d(self.width // size.heads, self.grid, config.context_tokens + entangled)
        self.merge = Merge(self.width, concatenate=config.fusion == "channel-concat") if config.merged else None
        self.context_streams = names if config.fusion == "shared-qkv" else (PIXELS,)
        self.blocks: Any = nn.ModuleList(
            TrunkBlock(
                self.width,
                size.heads,
                config.mlp_ratio,
                config.block_dropout(number),
                own=names if config.fusion == "shared-qkv" else (),
            )
            for number in range(size.depth)
        )
        self.own_blocks: Any = nn.ModuleList(
            nn.ModuleDict({name: Block(self.width, size.heads, config.mlp_ratio) for name in names})
            for _ in range(own_blocks)
        )

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        self._check_edges(condition.blocked)
        c, context = self.conditioning(times[PIXELS], condition.labels)
        for name, embed in self.other_times.items():
            c = c + embed(times[name])
        x = {name: embed(noisy[name]) + self.positions for name, embed in self.embeds.items()}
        patches, last = x[PIXELS].shape[1], list(x)[-1]
        if self.merge is not None:
            x = {PIXELS: self.merge.join(x)}
        if self.class_token is not None:
            front = list(x)[-1]
            x[front] = torch.cat([self.class_token.embed(noisy[CLASS_TOKEN]), x[front]], dim=1)
        lengths = {name: tokens.shape[1] for name, tokens in x.items()}

        tapped: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            if number == self.context_start:
                x |= {name: torch.cat([context.to(x[name].dtype), x[name]], dim=1) for name in self.context_streams}
            x = block(x, c, self.rope, condition.blocked)
            tapped.append(x[PIXELS][:, -patches:])
        x = {name: tokens[:, -lengths[name] :] for name, tokens in x.items()}
        if self.merge is not None:
            x = self.merge.part(x[PIXELS], patches)
        for blocks in self.own_blocks:
            x = {name: block(x[name], c, self.rope) for name, block in blocks.items()}
            tapped.append(x[PIXELS][:, -patches:])

        clean = {name: head(x[name][:, -patches:], c) for name, head in self.heads.items()}
        clean[PIXELS] = unpatchify(clean[PIXELS], self.grid, self.patch)
        if self.class_token is not None:
            clean[CLASS_TOKEN] = self.class_token.read(x[last][:, :1], self.heads[last], c)
        positions = torch.arange(patches, device=c.device)
        return Denoised(
            clean={name: prediction.to(noisy[name].dtype) for name, prediction in clean.items()},
            taps={number: Tap(tokens=tapped[number - 1], positions=positions) for number in taps},
        )

    def _check_edges(self, blocked: Blocked) -> None:
        if self.merge is not None and blocked:
            raise UserError(
                f"--backbone.fusion {self.config.fusion} merges pixels and features, so that attention between them "
                "cannot be blocked: choose --guidance cfg, or the fusion shared-qkv or token-concat"
            )
        if any(CLASS_TOKEN in edge for edge in blocked):
            raise UserError("backbone jit-joint blocks the class token with the stream it stands in, not on its own")


class TrunkBlock(nn.Module):
    """A transformer block of sequences with joint attention; they share its weights and, unless they `own` one, all."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float, own: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.streams: Any = nn.ModuleDict({name: StreamBlock(width, mlp_ratio, dropout) for name in own})
        self.stream = None if own else StreamBlock(width, mlp_ratio, dropout)

    def forward(self, x: Streams, c: Float[Tensor, "b d"], rope: Rope2d, blocked: Blocked) -> Streams:
        """Every sequence's tokens [b, n, d] after the block."""
        parts = {name: self.stream or self.streams[name] for name in x}
        before = {name: parts[name].before(tokens, c) for name, tokens in x.items()}
        attended = joint_attention({name: self.attention.project(h, rope) for name, (h, _) in before.items()}, blocked)
        return {
            name: parts[name].after(tokens, self.attention.merge(attended[name]), before[name][1])
            for name, tokens in x.items()
        }


class Merge(nn.Module):
    """The two tokens of a patch as one, by a linear layer over the channels of both or as their sum, and back."""

    def __init__(self, width: int, concatenate: bool) -> None:
        super().__init__()
        self.input = linear(2 * width, width) if concatenate else None
        self.output = linear(width, 2 * width)

    def join(self, x: Streams) -> Tokens:
        """Returns the patches' tokens."""
        if self.input is None:
            return x[PIXELS] + x[FEATURES]
        return self.input(torch.cat([x[PIXELS], x[FEATURES]], dim=-1))

    def part(self, x: Tokens, patches: int) -> Streams:
        """Returns both streams; a token in front of the patches goes with the features."""
        pixels, features = self.output(x).chunk(2, dim=-1)
        return {PIXELS: pixels[:, -patches:], FEATURES: features}


class ClassToken(nn.Module):
    """The way into the trunk for an encoder's class token, and out; the way out starts as zero."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.input = linear(features, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.output = linear(width, features, zero=True)

    def embed(self, x: Float[Tensor, "b 1 e"]) -> Float[Tensor, "b 1 d"]:
        """Returns its token."""
        return self.norm(self.input(x.to(self.input.weight.dtype)))

    def read(self, x: Float[Tensor, "b 1 d"], head: Head, c: Float[Tensor, "b d"]) -> Float[Tensor, "b 1 e"]:
        """Returns the clean class token, after the final norm of a patch stream's head."""
        return self.output(modulate(head.norm(x), *head.adaln(c)))


def _check_streams(config: JiTJoint.Config, streams: Mapping[str, StreamSpec]) -> None:
    """Raises `UserError` if the streams do not suit the fusion or the patches."""
    if FEATURES in streams:
        require_same_grid(streams, config.patch)
    if FEATURES not in streams and (config.fusion != "token-concat" or CLASS_TOKEN not in streams):
        raise UserError(
            f"--backbone.fusion {config.fusion} joins pixels and features, but this run has only {', '.join(streams)}: "
            "choose an adapter that makes features, --backbone jit for pixels alone, or token-concat for a class token"
        )
    if CLASS_TOKEN in streams and streams[CLASS_TOKEN].shape[0] != 1:
        raise UserError(f"A class token is one token an image, but the adapter makes {streams[CLASS_TOKEN].shape[0]}")
