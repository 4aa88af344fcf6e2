"""JiT, the plain pixel transformer."""

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from vco.api import PIXELS, Backbone, Condition, Denoised, Streams, StreamSpec, Tap, Times
from vco_plugins.layers import Block, Conditioning, Head, PatchEmbed, Rope2d, sincos_2d, unpatchify
from vco_plugins.sizes import TransformerConfig, patch_grid, require_streams


class JiT(Backbone):
    """Single-stream pixel transformer that predicts the clean image [JiT].

    Patches go through a bottleneck into a ViT with adaLN-Zero, rotary and fixed position embeddings, RMSNorm on queries
    and keys, and SwiGLU. From block `context_start` on, in-context class tokens stand in front of the patches. A run's
    other streams are ignored.

    Size S (12 blocks, width 384, 6 heads, bottleneck 128, in-context tokens after 4 blocks) is ours, the others are the
    paper's: B 131 M, L 459 M, H 953 M, G 2 B parameters.

    Raises:
        UserError: If the patch does not divide the image, or there is no pixel stream.

    Source: Back to Basics: Let Denoising Generative Models Denoise (arXiv 2511.13720).
    """

    streams: ClassVar[tuple[str, ...]] = (PIXELS,)

    @attrs.frozen(kw_only=True)
    class Config(TransformerConfig):
        """What a user may set."""

    def __init__(self, config: Config, *, streams: Mapping[str, StreamSpec], num_classes: int) -> None:
        super().__init__()
        require_streams(streams, self.streams)
        self.config = config
        size = config.resolved
        self.patch = patch = config.patch
        channels = streams[PIXELS].shape[0]
        self.depth, self.width = size.depth, size.width
        self.grid = patch_grid(streams[PIXELS], patch)
        self.context_start = size.context_start

        self.conditioning = Conditioning(self.width, num_classes, config.context_tokens)
        self.embed = PatchEmbed(channels, patch, size.bottleneck, self.width)
        self.register_buffer("positions", sincos_2d(self.grid, self.width), persistent=False)
        self.rope = Rope2d(self.width // size.heads, self.grid, config.context_tokens)
        self.blocks = nn.ModuleList(
            Block(self.width, size.heads, config.mlp_ratio, config.block_dropout(number))
            for number in range(self.depth)
        )
        self.head = Head(self.width, channels * patch**2)

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        c, context = self.conditioning(times[PIXELS], condition.labels)
        x = self.embed(noisy[PIXELS]) + self.positions
        patches = x.shape[1]
        tapped: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            if number == self.context_start:
                x = torch.cat([context.to(x.dtype), x], dim=1)
            x = block(x, c, self.rope)
            if number + 1 in taps:
                tapped[number + 1] = x[:, -patches:]
        image = unpatchify(self.head(x[:, -patches:], c), self.grid, self.patch)
        positions = torch.arange(patches, device=x.device)
        return Denoised(
            clean={PIXELS: image.to(noisy[PIXELS].dtype)},
            taps={number: Tap(tokens=tokens, positions=positions) for number, tokens in tapped.items()},
        )
