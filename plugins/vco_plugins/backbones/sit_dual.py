"""V-Co's dual stream with the blocks of SiT, for latents and features."""

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from vco.api import FEATURES, IMAGE, Backbone, BackboneSetting, Condition, Denoised, Streams, Tap, Times, UserError
from vco_plugins.jit_config import patch_grid, require_same_grid, require_streams
from vco_plugins.layers import Conditioning, GapEmbed, Head, linear, sincos_2d, told_together, unpatchify
from vco_plugins.sit_config import SiTConfig
from vco_plugins.trunk import DualBlock


class SiTDual(Backbone):
    """Two streams of SiT, latents and features, with own weights everywhere and one joint attention [V-Co; SiT].

    It is to `sit` what `jit-dual` is to `jit`: patches of the image stream and the encoder's tokens, on one grid, meet
    in the softmax of every block alone, and both streams' velocities are predicted. Both get the same position
    embeddings and are told the image's time. A blocked edge hides the other stream from a row's queries, as V-Co's
    structural guidance wants it. No paper has this network.

    Raises:
        UserError: If the patch does not divide the image stream, the features' grid is not the patches', or a stream is
            missing; from `forward` if tokens have times of their own.

    Source: V-Co (arXiv 2603.16792) for the two streams; SiT (arXiv 2401.08740) for the blocks.
    """

    streams: ClassVar[tuple[str, ...]] = (IMAGE, FEATURES)
    supports_blocking = True
    supports_until: ClassVar[bool] = True

    positions: Tensor

    @attrs.frozen(kw_only=True)
    class Config(SiTConfig):
        """What a user may set."""

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        super().__init__()
        require_streams(setting.streams, self.streams)
        self.config, self.patch = config, config.patch
        size = config.resolved
        self.depth, self.width = size.depth, size.width
        self.grid = patch_grid(setting.streams[IMAGE], self.patch)
        require_same_grid(setting.streams, self.patch)
        channels, features = setting.streams[IMAGE].shape[0], setting.streams[FEATURES].shape[-1]
        widths = {IMAGE: channels * self.patch**2, FEATURES: features}

        self.conditioning = Conditioning(self.width, setting.num_classes, 0)
        self.embeds: Any = nn.ModuleDict({name: linear(count, self.width) for name, count in widths.items()})
        self.register_buffer("positions", sincos_2d(self.grid, self.width), persistent=False)
        self.blocks = nn.ModuleList(
            DualBlock(self.width, size.heads, config.mlp_ratio, plain=True) for _ in range(self.depth)
        )
        heads = {name: Head(self.width, count, plain=True) for name, count in widths.items()}
        self.heads: Any = nn.ModuleDict(heads)
        self.gap = GapEmbed(self.width) if setting.until else None

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        t = times[IMAGE]
        if t.ndim == 2:
            raise UserError("backbone sit-dual takes one time for each sample, and none for single tokens")
        c, _ = self.conditioning(t, condition.labels)
        if self.gap is not None:
            c = told_together(c, self.gap(t, condition.until.get(IMAGE)))
        dtype = self.embeds[IMAGE].weight.dtype
        inputs = {IMAGE: _patches(noisy[IMAGE], self.patch), FEATURES: noisy[FEATURES]}
        x = {name: embed(inputs[name].to(dtype)) + self.positions for name, embed in self.embeds.items()}
        tapped: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            x = block(x, c, None, condition.blocked)
            if number + 1 in taps:
                tapped[number + 1] = x[IMAGE]
        velocity = {name: head(x[name], c) for name, head in self.heads.items()}
        velocity[IMAGE] = unpatchify(velocity[IMAGE], self.grid, self.patch)
        positions = torch.arange(x[IMAGE].shape[1], device=c.device)
        return Denoised(
            velocity={name: v.to(noisy[name].dtype) for name, v in velocity.items()},
            taps={number: Tap(tokens=tokens, positions=positions) for number, tokens in tapped.items()},
        )

    def block_modules(self) -> Sequence[nn.Module]:
        return list(self.blocks)


def _patches(x: Tensor, patch: int) -> Tensor:
    """Row-major patches [b, n, e], each as numbers by (row, column, channel): what `unpatchify` takes apart again."""
    cells = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # b c rows p columns p
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
