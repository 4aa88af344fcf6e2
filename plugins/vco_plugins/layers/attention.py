"""Rotary attention: what it learns, and how two streams share one softmax."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vco_plugins.layers.basic import RMSNorm, Tokens, at_least_float32, linear
from vco_plugins.layers.tables import frequencies, rows_columns, table

Heads = Float[Tensor, "b heads n e"]
"""e is the width of a head, or of whatever is not the token width d."""
QKV = tuple[Heads, Heads, Heads]
"""Queries, keys and values."""
Positions = Int[Tensor, "b k"]
"""Where the tokens of each sample stand in the grid, in row-major order, if they are not the whole grid in order."""


class Rope2d(nn.Module):
    """Rotary embedding of queries and keys on a grid; tokens in front of the grid (in-context ones) are not rotated.

    The first half of a head's channels turns with the row, the second with the column, in neighbouring pairs, by
    position * 10000^(-2k / (e / 2)) for a head of width e. It serves any sequence that ends with the whole grid, or
    with those of its tokens that stand at given positions.

    Source: RoFormer (arXiv 2104.09864), on two axes as in EVA-02 (arXiv 2303.11331).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_width: int, grid: tuple[int, int], context_tokens: int) -> None:
        super().__init__()
        turns = frequencies(head_width // 4)
        angles = torch.cat([axis[:, None] * turns for axis in rows_columns(grid)], dim=1)
        angles = F.pad(angles, (0, 0, context_tokens, 0))
        self.context_tokens = context_tokens
        self.register_buffer("cos", table(angles.cos()), persistent=False)
        self.register_buffer("sin", table(angles.sin()), persistent=False)

    def forward(self, x: Heads, positions: Positions | None = None) -> Heads:
        if positions is None:
            cos, sin = self.cos[-x.shape[2] :], self.sin[-x.shape[2] :]
        else:
            front = torch.arange(x.shape[2] - positions.shape[1], device=x.device).expand(len(x), -1)
            rows = torch.cat([front, self.context_tokens + positions], dim=1)
            cos, sin = self.cos[rows].unsqueeze(1), self.sin[rows].unsqueeze(1)
        return _rotated(at_least_float32(x).unflatten(-1, (-1, 2)), cos, sin).flatten(-2).to(x.dtype)


def _rotated(pairs: Float[Tensor, "*b 2"], cos: Tensor, sin: Tensor) -> Float[Tensor, "*b 2"]:
    """Turns pairs by angles. As a complex product it is one kernel with the same bits; the compiler fuses the other."""
    if torch.compiler.is_compiling():
        even, odd = pairs.unbind(-1)
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))


class Attention(nn.Module):
    """The learned half of attention: projections with per-head RMSNorm of queries and keys, and the way back.

    `plain` attention (DiT, SiT) has no norm of queries and keys.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, plain: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.q_norm = nn.Identity() if plain else RMSNorm(width // heads)
        self.k_norm = nn.Identity() if plain else RMSNorm(width // heads)
        self.output = linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tokens, rope: Rope2d | None, positions: Positions | None = None) -> QKV:
        """Returns queries and keys, rotated if there is a rotary embedding, and values."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rope is None:
            return self.q_norm(q), self.k_norm(k), v
        return rope(self.q_norm(q), positions), rope(self.k_norm(k), positions), v

    def merge(self, attended: Heads) -> Tokens:
        """Joins the heads and projects them."""
        return self.dropout(self.output(attended.transpose(1, 2).flatten(2)))


Blocked = Mapping[tuple[str, str], Bool[Tensor, " b"]]
"""Rows in which the first stream's queries do not see the second one's keys."""


def joint_attention(streams: Mapping[str, QKV], blocked: Blocked) -> dict[str, Heads]:
    """Returns softmax attention of some streams over the tokens of all; a blocked row sees only its own stream.

    Blocking needs no dense mask, no host synchronisation, and no shape that depends on the data. Of the two ways, a
    mask of the keys costs almost nothing where the fused kernel takes masks. CUDA's fastest one takes none: there a
    second attention of that query stream to itself is chosen per row (docs/performance.md, "The structural mask").
    """
    edges = {edge: rows for edge, rows in blocked.items() if edge[0] in streams and edge[1] in streams}
    if edges and not next(iter(streams.values()))[0].is_cpu:
        return attention_chosen_by_row(streams, edges)
    return attention_with_masked_keys(streams, edges)


def attention_with_masked_keys(streams: Mapping[str, QKV], blocked: Blocked) -> dict[str, Heads]:
    """Joint attention in which the queries of each blocked stream have a mask [b, 1, 1, keys] over the keys of all."""
    if not blocked:
        return _together(streams)
    k, v = (torch.cat([qkv[part] for qkv in streams.values()], dim=2) for part in (1, 2))
    lengths = {name: keys.shape[2] for name, (_, keys, _) in streams.items()}
    attended: dict[str, Heads] = {}
    for name, (queries, _, _) in streams.items():
        hidden = {key: rows for (query, key), rows in blocked.items() if query == name}
        seen = None
        if hidden:
            everything = torch.ones_like(next(iter(hidden.values())))
            columns = {key: ~hidden[key] if key in hidden else everything for key in streams}
            seen = torch.cat([rows[:, None].expand(-1, lengths[key]) for key, rows in columns.items()], dim=1)
            seen = seen[:, None, None]
        attended[name] = F.scaled_dot_product_attention(queries, k, v, attn_mask=seen)
    return attended


def attention_chosen_by_row(streams: Mapping[str, QKV], blocked: Blocked) -> dict[str, Heads]:
    """Joint attention without a mask; a blocked row of two streams gets that of its stream to itself instead."""
    attended = _together(streams)
    for (query, _), rows in blocked.items():
        alone = F.scaled_dot_product_attention(*streams[query])
        attended[query] = torch.where(rows[:, None, None, None], alone, attended[query])
    return attended


def _together(streams: Mapping[str, QKV]) -> dict[str, Heads]:
    """Joint attention in which everything sees everything."""
    q, k, v = (torch.cat(parts, dim=2) for parts in zip(*streams.values(), strict=True))
    lengths = [queries.shape[2] for queries, _, _ in streams.values()]
    return dict(zip(streams, F.scaled_dot_product_attention(q, k, v).split(lengths, dim=2), strict=True))
