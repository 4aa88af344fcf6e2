"""What networks for several streams are made of: blocks that they share or meet in, and how two tokens become one."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from vco.api import FEATURES, IMAGE, Streams
from vco_plugins.layers import Attention, Rope2d, StreamBlock, Tokens, Told, joint_attention, linear

Blocked = Mapping[tuple[str, str], Bool[Tensor, " b"]]


class TrunkBlock(nn.Module):
    """A transformer block of sequences with joint attention; they share its weights and, unless they `own` one, all."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float, own: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.streams: Any = nn.ModuleDict({name: StreamBlock(width, mlp_ratio, dropout) for name in own})
        self.stream = None if own else StreamBlock(width, mlp_ratio, dropout)

    def forward(self, x: Streams, c: Told, rope: Rope2d, blocked: Blocked) -> Streams:
        """Every sequence's tokens [b, n, d] after the block."""
        parts = {name: self.stream or self.streams[name] for name in x}
        before = {name: parts[name].before(tokens, c) for name, tokens in x.items()}
        attended = joint_attention({name: self.attention.project(h, rope) for name, (h, _) in before.items()}, blocked)
        return {
            name: parts[name].after(tokens, self.attention.merge(attended[name]), before[name][1])
            for name, tokens in x.items()
        }


class Merge(nn.Module):
    """The two tokens of a patch as one, by a linear layer over the channels of both where they are not added, and back.

    Where streams have no blocks of their own (`own_width` None) there is no way back, as they share a head.
    """

    def __init__(self, width: int, own_width: int | None, concatenate: bool) -> None:
        super().__init__()
        self.input = linear(2 * width, width) if concatenate else None
        names = (IMAGE, FEATURES) if own_width else ()
        self.outputs: Any = nn.ModuleDict({name: linear(width, own_width or width) for name in names})

    def join(self, x: Streams) -> Tokens:
        """Returns the patches' tokens of streams whose channels are concatenated."""
        assert self.input is not None, "streams that are added need no layer"
        return self.input(torch.cat([x[IMAGE], x[FEATURES]], dim=-1))

    def part(self, x: Tokens, patches: int) -> Streams:
        """Returns both streams; a token in front of the patches goes with the features."""
        return {name: layer(x[:, -patches:] if name == IMAGE else x) for name, layer in self.outputs.items()}


class DualBlock(nn.Module):
    """A transformer block of two streams, image and features, that share nothing but the softmax."""

    attention: Mapping[str, Attention]
    streams: Mapping[str, StreamBlock]

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float = 0.0, plain: bool = False) -> None:
        super().__init__()
        self.attention = _by_stream(lambda: Attention(width, heads, dropout, plain))
        self.streams = _by_stream(lambda: StreamBlock(width, mlp_ratio, dropout, plain=plain))

    def forward(self, x: Streams, c: Told, rope: Rope2d | None, blocked: Blocked) -> Streams:
        """Every stream's tokens [b, n, d] after the block."""
        before = {name: stream.before(x[name], c) for name, stream in self.streams.items()}
        qkv = {name: self.attention[name].project(h, rope) for name, (h, _) in before.items()}
        attended = joint_attention(qkv, blocked)
        return {
            name: stream.after(x[name], self.attention[name].merge(attended[name]), before[name][1])
            for name, stream in self.streams.items()
        }


def _by_stream(make: Callable[[], nn.Module]) -> Any:
    """A registered dict with one module for each stream."""
    return nn.ModuleDict({name: make() for name in (IMAGE, FEATURES)})
