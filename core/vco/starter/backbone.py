"""The backbone `my-backbone`: the network that predicts clean streams from noisy ones.

The contract is `vco.api.Backbone`. This one denoises the image stream alone; one that denoises features too names that
stream in `streams`, and lets the tokens of both see each other.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import IMAGE, Backbone, BackboneSetting, Condition, Denoised, Streams, Tap, Times, UserError


def _divides_width(config: Any, attribute: "attrs.Attribute[int]", value: int) -> None:
    if value < 1 or config.width % value:
        raise ValueError(f"heads ({value}) must divide width ({config.width})")


class MyBackbone(Backbone):
    """Small vision transformer: patches in, clean patches out; time and class steer every block (adaLN-Zero).

    Raises:
        UserError: If the patch does not divide the image.

    Source: DiT (arXiv 2212.09748).
    """

    @attrs.frozen(kw_only=True)
    class Config(Backbone.Config):
        """What a user may set. The defaults suit 8x8 images (256x256: patch 16, width 768, depth 12, heads 12)."""

        patch: int = attrs.field(default=2, validator=ge(1))
        """Side of a patch, at least 1; must divide height and width of the image stream."""
        width: int = attrs.field(default=64, validator=ge(1))
        """Width of a token, at least 1; a multiple of heads."""
        depth: int = attrs.field(default=4, validator=ge(1))
        """Number of blocks, at least 1."""
        heads: int = attrs.field(default=4, validator=_divides_width)
        """Attention heads, at least 1; must divide width."""

    frequencies: Tensor

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        """`setting` has the shape of every stream and the number of classes."""
        super().__init__()
        channels, height, width = setting.streams[IMAGE].shape
        if height % config.patch or width % config.patch:
            raise UserError(
                f"--backbone.patch {config.patch} does not divide an image stream of {height}x{width}: choose another"
            )
        self.config, self.depth, self.width = config, config.depth, config.width
        self.grid = (height // config.patch, width // config.patch)
        numbers = channels * config.patch**2
        self.embed = nn.Linear(numbers, config.width)
        # as large as an embedded patch: smaller ones take hundreds of steps to tell where a patch is
        self.places = nn.Parameter(0.5 * torch.randn(self.grid[0] * self.grid[1], config.width))
        self.register_buffer("frequencies", torch.pi * torch.arange(1, 17), persistent=False)
        self.time = nn.Sequential(nn.Linear(32, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.label = nn.Embedding(setting.num_classes + 1, config.width)  # the last one stands for "no label"
        nn.init.normal_(self.label.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.head = nn.Linear(config.width, numbers)
        _zero(self.head)  # an untrained network predicts gray

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        """Noisy images [b, c, h, w], times [b]; `taps`: blocks (1 = first) whose tokens [b, n, d] are wanted."""
        images = noisy[IMAGE]
        patches = F.pixel_unshuffle(images.to(self.embed.weight.dtype), self.config.patch).flatten(2).transpose(1, 2)
        tokens = self.embed(patches) + self.places
        angles = times[IMAGE][:, None] * self.frequencies
        c = self.time(torch.cat([angles.cos(), angles.sin()], dim=1)) + self.label(condition.labels)
        positions = torch.arange(len(self.places), device=images.device)
        tapped: dict[int, Tap] = {}
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, c)
            if number in taps:
                tapped[number] = Tap(tokens=tokens, positions=positions)
        patches = self.head(_norm(tokens)).transpose(1, 2).unflatten(2, self.grid)
        clean = F.pixel_shuffle(patches, self.config.patch).to(images.dtype)
        return Denoised(clean={IMAGE: clean}, taps=tapped)

    def block_modules(self) -> Sequence[nn.Module]:
        """Lets large networks save memory: --train.checkpoint-blocks, --train.sharding."""
        return list(self.blocks)


class Block(nn.Module):
    """Attention, then an MLP; the condition c shifts and scales what enters each of them, and gates what they add."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.steer = nn.Linear(width, 6 * width)
        _zero(self.steer)  # gates are closed at first: a block begins as the identity

    def forward(self, x: Float[Tensor, "b n d"], c: Float[Tensor, "b d"]) -> Float[Tensor, "b n d"]:
        """Tokens after the block."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.steer(F.silu(c))[:, None].chunk(6, dim=-1)
        heads = self.qkv(_norm(x) * (1 + scale) + shift).unflatten(-1, (3, self.heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()
        x = x + gate * self.merge(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + mlp_gate * self.mlp(_norm(x) * (1 + mlp_scale) + mlp_shift)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _norm(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Tokens of root mean square 1."""
    return F.rms_norm(x, x.shape[-1:])
