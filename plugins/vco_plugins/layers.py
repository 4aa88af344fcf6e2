"""What JiT-like backbones are made of: embeddings, rotary attention, gated adaLN blocks, heads.

A block is an `Attention` (projections, per-head norms, output) and, for every stream, a `StreamBlock` (norms, SwiGLU,
adaLN). A single-stream network joins one of each in a `Block`; streams with joint attention share `joint_attention`.

All layers set their own initial weights: Xavier-uniform and zero bias for linear layers, zero for adaLN and heads, so
that an untrained network predicts zeros. Fixed tables are float32 buffers outside the checkpoint.

Source: JiT (arXiv 2511.13720), V-Co (arXiv 2603.16792), DiT (arXiv 2212.09748) for adaLN-Zero.
"""

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

FREQUENCIES: Final = 256
"""Cosines and sines in the embedding of t."""

Tokens = Float[Tensor, "b n d"]
Modulation = Float[Tensor, "b 1 d"]
Heads = Float[Tensor, "b heads n e"]
"""e is the width of a head, or of whatever is not the token width d."""
QKV = tuple[Heads, Heads, Heads]
"""Queries, keys and values."""


def linear(inputs: int, outputs: int, zero: bool = False) -> nn.Linear:
    """Returns a linear layer with Xavier-uniform (or zero) weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last axis with a learned scale, computed in float32 and cast back."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)


class SwiGLU(nn.Module):
    """Gated MLP with one fused input projection; its first half goes through SiLU."""

    def __init__(self, width: int, mlp_ratio: float, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = int(int(width * mlp_ratio) * 2 / 3)
        self.input = linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = linear(hidden, width)

    def forward(self, x: Tokens) -> Tokens:
        gate, value = self.input(x).chunk(2, dim=-1)
        return self.output(self.dropout(F.silu(gate) * value))


class AdaLN(nn.Module):
    """Maps the condition to `parts` vectors per sample (shifts, scales, gates), zero at the start."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = linear(width, parts * width, zero=True)

    def forward(self, c: Float[Tensor, "b d"]) -> tuple[Modulation, ...]:
        return self.linear(F.silu(c)).unsqueeze(1).chunk(self.parts, dim=-1)


def modulate(x: Tokens, shift: Modulation, scale: Modulation) -> Tokens:
    """Returns x * (1 + scale) + shift."""
    return x * (1 + scale) + shift


def _table(values: Tensor) -> Tensor:
    """A float64 table made on the CPU (the same on every machine) as float32 on the device in use."""
    return values.float().to(torch.get_default_device())


def _frequencies(count: int) -> Float[Tensor, " count"]:
    """10000^(-k / count), float64 on the CPU."""
    return 10_000.0 ** (-torch.arange(count, dtype=torch.float64, device="cpu") / count)


def _rows_columns(grid: tuple[int, int]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Row and column of every token in row-major order, float64 on the CPU."""
    rows, columns = (torch.arange(side, dtype=torch.float64, device="cpu") for side in grid)
    return rows.repeat_interleave(grid[1]), columns.repeat(grid[0])


def sincos_2d(grid: tuple[int, int], width: int) -> Float[Tensor, "n d"]:
    """Returns the fixed position table: the first half of the channels tells the column, the second the row.

    Each half is [sin, cos] of position * 10000^(-k / (width / 4)). Source: MAE (arXiv 2111.06377), as used by DiT.
    """
    rows, columns = _rows_columns(grid)
    angles = [axis[:, None] * _frequencies(width // 4) for axis in (columns, rows)]
    return _table(torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1))


class PatchEmbed(nn.Module):
    """Pixels to tokens through a bottleneck: patches to b channels (no bias), then b to d."""

    def __init__(self, channels: int, patch: int, bottleneck: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, bottleneck, kernel_size=patch, stride=patch, bias=False)
        nn.init.xavier_uniform_(self.reduce.weight.view(bottleneck, -1))
        self.expand = linear(bottleneck, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tokens:
        return self.expand(self.reduce(x.to(self.reduce.weight.dtype)).flatten(2).transpose(1, 2))


class TokenEmbed(nn.Module):
    """Feature tokens to tokens through a bottleneck: D to b (no bias), then b to d; PyTorch's initial weights."""

    def __init__(self, features: int, bottleneck: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(features, bottleneck, bias=False)
        self.expand = nn.Linear(bottleneck, width)

    def forward(self, x: Float[Tensor, "b n e"]) -> Tokens:
        return self.expand(self.reduce(x.to(self.reduce.weight.dtype)))


class TimeEmbed(nn.Module):
    """Cosines and sines of t in [0, 1] (cosines first, t not rescaled), then a two-layer MLP."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = linear(FREQUENCIES, width)
        self.output = linear(width, width)
        for layer in (self.input, self.output):
            nn.init.normal_(layer.weight, std=0.02)
        self.register_buffer("frequencies", _table(_frequencies(FREQUENCIES // 2)), persistent=False)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        angles = t.float()[:, None] * self.frequencies.float()
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.output(F.silu(self.input(waves.to(self.input.weight.dtype))))


class Conditioning(nn.Module):
    """Time and class label as the vector c of the adaLN layers, and the label again as in-context tokens.

    c = time + label; token m = label + learned position m. Index `num_classes` is the null label.
    """

    def __init__(self, width: int, num_classes: int, context_tokens: int) -> None:
        super().__init__()
        self.time = TimeEmbed(width)
        self.label = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.label.weight, std=0.02)
        self.context = nn.Parameter(0.02 * torch.randn(context_tokens, width)) if context_tokens else None

    def forward(
        self, t: Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b m d"]]:
        label = self.label(labels)
        tokens = label[:, None]
        context = tokens[:, :0] if self.context is None else tokens + self.context
        return self.time(t) + label, context


class Rope2d(nn.Module):
    """Rotary embedding of queries and keys on a grid; tokens in front of the grid (in-context ones) are not rotated.

    The first half of a head's channels turns with the row, the second with the column, in neighbouring pairs, by
    position * 10000^(-2k / (e / 2)) for a head of width e. It serves any sequence that ends with the whole grid.

    Source: RoFormer (arXiv 2104.09864), on two axes as in EVA-02 (arXiv 2303.11331).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_width: int, grid: tuple[int, int], context_tokens: int) -> None:
        super().__init__()
        frequencies = _frequencies(head_width // 4)
        angles = torch.cat([axis[:, None] * frequencies for axis in _rows_columns(grid)], dim=1)
        angles = F.pad(angles, (0, 0, context_tokens, 0))
        self.register_buffer("cos", _table(angles.cos()), persistent=False)
        self.register_buffer("sin", _table(angles.sin()), persistent=False)

    def forward(self, x: Heads) -> Heads:
        cos, sin = self.cos[-x.shape[2] :], self.sin[-x.shape[2] :]
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """The learned half of attention: projections with per-head RMSNorm of queries and keys, and the way back."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)
        self.output = linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tokens, rope: Rope2d) -> QKV:
        """Returns rotated queries, rotated keys, and values."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rope(self.q_norm(q)), rope(self.k_norm(k)), v

    def merge(self, attended: Heads) -> Tokens:
        """Joins the heads and projects them."""
        return self.dropout(self.output(attended.transpose(1, 2).flatten(2)))


def joint_attention(
    streams: Mapping[str, QKV], blocked: Mapping[tuple[str, str], Bool[Tensor, " b"]]
) -> dict[str, Heads]:
    """Returns softmax attention of two streams over the tokens of both; a blocked row sees only its own stream.

    Blocking costs a second attention of that query stream to itself, chosen per row: no dense mask (which would rule
    out the fused kernels), no host synchronisation, no shape that depends on the data.
    """
    q, k, v = (torch.cat(parts, dim=2) for parts in zip(*streams.values(), strict=True))
    lengths = [queries.shape[2] for queries, _, _ in streams.values()]
    attended = dict(zip(streams, F.scaled_dot_product_attention(q, k, v).split(lengths, dim=2), strict=True))
    for (query, key), rows in blocked.items():
        if query in streams and key in streams:
            alone = F.scaled_dot_product_attention(*streams[query])
            attended[query] = torch.where(rows[:, None, None, None], alone, attended[query])
    return attended


class StreamBlock(nn.Module):
    """A stream's own half of a block: adaLN-modulated norms before attention and SwiGLU, gated residuals after them."""

    def __init__(self, width: int, mlp_ratio: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.adaln = AdaLN(width, 6)
        self.norm1 = RMSNorm(width)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width, mlp_ratio, dropout)

    def before(self, x: Tokens, c: Float[Tensor, "b d"]) -> tuple[Tokens, tuple[Modulation, ...]]:
        """Returns the input of attention, and the modulation that `after` takes."""
        shift, scale, *rest = self.adaln(c)
        return modulate(self.norm1(x), shift, scale), tuple(rest)

    def after(self, x: Tokens, attended: Tokens, rest: tuple[Modulation, ...]) -> Tokens:
        """Adds the attention's output and the MLP to the stream."""
        gate, mlp_shift, mlp_scale, mlp_gate = rest
        x = x + gate * attended
        return x + mlp_gate * self.mlp(modulate(self.norm2(x), mlp_shift, mlp_scale))


class Block(nn.Module):
    """JiT's transformer block: one stream that attends to itself."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.stream = StreamBlock(width, mlp_ratio, dropout)

    def forward(self, x: Tokens, c: Float[Tensor, "b d"], rope: Rope2d) -> Tokens:
        h, rest = self.stream.before(x, c)
        attended = F.scaled_dot_product_attention(*self.attention.project(h, rope))
        return self.stream.after(x, self.attention.merge(attended), rest)


class Head(nn.Module):
    """Tokens to predictions: adaLN-modulated RMSNorm, then a linear layer that starts as zero."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.adaln = AdaLN(width, 2)
        self.norm = RMSNorm(width)
        self.linear = linear(width, outputs, zero=True)

    def forward(self, x: Tokens, c: Float[Tensor, "b d"]) -> Float[Tensor, "b n e"]:
        return self.linear(modulate(self.norm(x), *self.adaln(c)))


def unpatchify(tokens: Float[Tensor, "b n e"], grid: tuple[int, int], patch: int) -> Float[Tensor, "b c h w"]:
    """Returns the image of row-major patch tokens, each ordered (row, column, channel) inside."""
    x = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, grid)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
