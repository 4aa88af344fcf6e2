"""A transformer of one stream: the body of JiT, and of networks that add something to it."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vco.api import IMAGE, Backbone, BackboneSetting, Condition, Denoised, Streams, Tap, Times
from vco_plugins.jit_config import patch_grid, require_streams
from vco_plugins.layers import (
    Block,
    Conditioning,
    GapEmbed,
    Head,
    PatchEmbed,
    Rope2d,
    Tokens,
    sincos_2d,
    told_together,
    unpatchify,
)
from vco_plugins.routing import ROUTING, Route, RoutedConfig


class SingleStream(Backbone):
    """JiT's transformer of one stream; the networks that are offered are its subclasses.

    Source: Back to Basics: Let Denoising Generative Models Denoise (arXiv 2511.13720).
    """

    streams: ClassVar[tuple[str, ...]] = (IMAGE,)
    supports_until: ClassVar[bool] = True
    supports_token_times: ClassVar[bool] = True

    positions: Tensor

    config: RoutedConfig

    def __init__(self, config: RoutedConfig, setting: BackboneSetting) -> None:
        super().__init__()
        require_streams(setting.streams, self.streams)
        self.config = config
        size = config.resolved
        self.patch = patch = config.patch
        channels = setting.streams[IMAGE].shape[0]
        self.depth, self.width = size.depth, size.width
        self.grid = patch_grid(setting.streams[IMAGE], patch)
        self.context_start = size.context_start
        self.routed = config.routed
        if self.routed:
            self.draws = {ROUTING: (self.grid[0] * self.grid[1],)}

        self.conditioning = Conditioning(self.width, setting.num_classes, config.context_tokens)
        self.embed = PatchEmbed(channels, patch, size.bottleneck, self.width)
        self.register_buffer("positions", sincos_2d(self.grid, self.width), persistent=False)
        self.rope = Rope2d(self.width // size.heads, self.grid, config.context_tokens)
        self.blocks = nn.ModuleList(
            Block(self.width, size.heads, config.mlp_ratio, config.block_dropout(number))
            for number in range(self.depth)
        )
        self.head = Head(self.width, channels * patch**2)
        # made last, so that the other weights of a seed are those of a network without it
        self.gap = GapEmbed(self.width, config.context_tokens) if setting.until else None

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        c, context = self.conditioning(times[IMAGE], condition.labels)
        if self.gap is not None:
            c = told_together(c, self.gap(times[IMAGE], condition.until.get(IMAGE)))
        x = self.embedded(noisy, condition) + self.positions
        draws = condition.context.get(ROUTING) if self.training and self.routed else None
        route, told = None, c
        everywhere = torch.arange(x.shape[1], device=x.device)
        tapped: dict[int, Tap] = {}
        for number, block in enumerate(self.blocks):
            if number == self.context_start:
                x = torch.cat([context.to(x.dtype), x], dim=1)
            if draws is not None and number == self.routed[0]:
                route = Route.of(draws, self.config.route_ratio, x)
                x, told = route.entered(x), route.told(c)
            positions = None if route is None else route.positions
            x = block(x, told, self.rope, positions)
            if number + 1 in taps:
                places = everywhere if positions is None else positions
                tapped[number + 1] = Tap(tokens=x[:, -places.shape[-1] :], positions=places)
            if route is not None and number == self.routed[-1]:
                x, told, route = route.left(x), c, None
        image = unpatchify(self.head(x[:, -len(everywhere) :], c), self.grid, self.patch)
        return Denoised(clean={IMAGE: image.to(noisy[IMAGE].dtype)}, taps=tapped)

    def block_modules(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def embedded(self, noisy: Streams, condition: Condition) -> Tokens:
        """The patches as tokens, before they are told their positions."""
        return self.embed(noisy[IMAGE])
