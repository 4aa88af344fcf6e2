"""V-Co's dual-stream network."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import attrs
import torch
from attrs.validators import in_
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
    Tap,
    Times,
)
from vco_plugins.jit_config import TransformerConfig, patch_grid, require_same_grid, require_streams
from vco_plugins.layers import (
    Conditioning,
    GapEmbed,
    Head,
    PatchEmbed,
    Rope2d,
    TimeEmbed,
    TokenEmbed,
    sincos_2d,
    told_together,
    unpatchify,
)
from vco_plugins.published import recognise
from vco_plugins.trunk import DualBlock

STREAMS = (IMAGE, FEATURES)


class JiTDual(Backbone):
    """Two JiT streams, image and features, with own weights everywhere and one joint attention [V-Co].

    Both streams get the same position embeddings, in-context class tokens (which belong to the stream they stand in)
    and condition. It tells the time of the image; a process that gives the features another one moves their noise but
    not the embedding, unless `time_embedding` is separate: then both times are embedded and added [Latent Forcing]. A
    blocked edge hides the other stream from a row's queries, in-context tokens included.

    Where every token has a time of its own, the tokens at one place of both streams are modulated alike; in-context
    tokens go by the mean of the sample's times. A run that tells where a step goes adds an embedding of the way that is
    left to go, one for each time that is embedded.

    B has 261 M, L 915 M, H 1.9 B parameters; S (12 blocks, width 384, 6 heads, bottleneck 128, in-context tokens after
    4 blocks) is ours, the others are the paper's.

    Raises:
        UserError: If the patch does not divide the image, the features' grid is not the patches', or a stream is
            missing.

    Source: V-Co (arXiv 2603.16792), the fully dual-stream architecture; Latent Forcing (arXiv 2602.11401) for the two
        time embeddings.
    """

    streams: ClassVar[tuple[str, ...]] = STREAMS
    supports_blocking = True
    supports_until: ClassVar[bool] = True
    supports_token_times: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(TransformerConfig):
        """What a user may set."""

        size: Literal["S", "B", "L", "H"] = attrs.field(default="B", validator=in_(("S", "B", "L", "H")))
        """Gives width, depth, heads, bottleneck and context_start where they are not set; S is not a published size."""
        time_embedding: Literal["shared", "separate"] = attrs.field(
            default="shared", validator=in_(("shared", "separate"))
        )
        """What the network is told of time: that of the image, or the sum of an embedding of each stream's own."""

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        super().__init__()
        require_streams(setting.streams, STREAMS)
        self.config = config
        size = config.resolved
        self.patch = patch = config.patch
        channels = setting.streams[IMAGE].shape[0]
        features = setting.streams[FEATURES].shape[-1]
        self.depth, self.width = size.depth, size.width
        self.grid = patch_grid(setting.streams[IMAGE], patch)
        self.context_start = size.context_start
        require_same_grid(setting.streams, patch)

        self.conditioning = Conditioning(self.width, setting.num_classes, config.context_tokens)
        separate = config.time_embedding == "separate"
        self.feature_time = TimeEmbed(self.width, config.context_tokens) if separate else None
        self.embeds = nn.ModuleDict(
            {
                IMAGE: PatchEmbed(channels, patch, size.bottleneck, self.width),
                FEATURES: TokenEmbed(features, size.bottleneck, self.width),
            }
        )
        self.register_buffer("positions", sincos_2d(self.grid, self.width), persistent=False)
        self.rope = Rope2d(self.width // size.heads, self.grid, config.context_tokens)
        self.blocks = nn.ModuleList(
            DualBlock(self.width, size.heads, config.mlp_ratio, config.block_dropout(number))
            for number in range(self.depth)
        )
        self.heads = nn.ModuleDict({IMAGE: Head(self.width, channels * patch**2), FEATURES: Head(self.width, features)})
        # made last, so that the other weights of a seed are those of a network without it
        timed = STREAMS if separate else (IMAGE,)
        gaps = {name: GapEmbed(self.width, config.context_tokens) for name in timed if setting.until}
        self.gaps = nn.ModuleDict(gaps)

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        c, context = self.conditioning(times[IMAGE], condition.labels)
        if self.feature_time is not None:
            c = told_together(c, self.feature_time(times[FEATURES]))
        for name, gap in self.gaps.items():
            c = told_together(c, gap(times[name], condition.until.get(name)))
        x = {name: embed(noisy[name]) + self.positions for name, embed in self.embeds.items()}
        patches = x[IMAGE].shape[1]
        tapped: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            if number == self.context_start:
                x = {name: torch.cat([context.to(tokens.dtype), tokens], dim=1) for name, tokens in x.items()}
            x = block(x, c, self.rope, condition.blocked)
            if number + 1 in taps:
                tapped[number + 1] = x[IMAGE][:, -patches:]
        clean = {name: head(x[name][:, -patches:], c) for name, head in self.heads.items()}
        clean[IMAGE] = unpatchify(clean[IMAGE], self.grid, self.patch)
        positions = torch.arange(patches, device=c.device)
        return Denoised(
            clean={name: prediction.to(noisy[name].dtype) for name, prediction in clean.items()},
            taps={number: Tap(tokens=tokens, positions=positions) for number, tokens in tapped.items()},
        )

    def block_modules(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def from_published(self, weights: PublishedWeights) -> Mapping[str, str]:
        return recognise(weights, "jit-dual", self.config)
