"""Ways to give joint attention its structural mask, each against a mask of keys: forward and backward pass.

python benchmarks/mask.py [--small] [--turns N] [--json FILE]
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from turns import in_turns, table, write_json

from vco.api import FEATURES, IMAGE
from vco_plugins.layers.attention import attention_chosen_by_row, attention_with_masked_keys

SHAPES = {"digits": (80, 4, 18, 16), "S": (8, 6, 288, 64), "B": (4, 12, 288, 64)}
"""Batch, heads, tokens of a stream, width of a head."""
ON_GPU = {"B": (128, 12, 288, 64), "L": (64, 16, 288, 64)}
SMALL = {"digits": (8, 4, 18, 16)}
Way = Callable[[Mapping[str, Any], Tensor], Mapping[str, Tensor]]


def dense(streams: Mapping[str, Any], rows: Tensor) -> Mapping[str, Tensor]:
    """A table of what is added to each score, as in the published code."""
    q, k, v = (torch.cat(parts, dim=2) for parts in zip(*streams.values(), strict=True))
    own = streams[IMAGE][0].shape[2]
    mask = q.new_zeros(len(q), 1, q.shape[2], q.shape[2])
    mask[:, :, :own, own:] = torch.where(rows[:, None, None, None], -torch.inf, 0.0).to(q.dtype)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return dict(zip(streams, attended.split([own, q.shape[2] - own], dim=2), strict=True))


def blocked_rows(streams: Mapping[str, Any], rows: Tensor) -> Mapping[str, Tensor]:
    """A second attention for the blocked rows alone; their number makes the shapes, and is read to the host."""
    attended = dict(attention_with_masked_keys(streams, {}))
    index = rows.nonzero().flatten()
    alone = F.scaled_dot_product_attention(*(part[index] for part in streams[IMAGE]))
    attended[IMAGE] = attended[IMAGE].index_copy(0, index, alone)
    return attended


def flex() -> Way:
    """FlexAttention, compiled, with a mask by sample, query and key; its block mask is made anew for each batch."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def way(streams: Mapping[str, Any], rows: Tensor) -> Mapping[str, Tensor]:
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*streams.values(), strict=True))
        own = streams[IMAGE][0].shape[2]

        def seen(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return ~(rows[b] & (query < own) & (key >= own))

        mask = create_block_mask(seen, len(q), None, q.shape[2], k.shape[2], device=str(q.device))
        attended = compiled(q, k, v, block_mask=mask)
        return dict(zip(streams, attended.split([own, q.shape[2] - own], dim=2), strict=True))

    return way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one small shape")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    edge = (IMAGE, FEATURES)
    keys: Way = lambda streams, rows: attention_with_masked_keys(streams, {edge: rows})  # noqa: E731
    ways: dict[str, Way] = {
        "no mask at all": lambda streams, rows: attention_with_masked_keys(streams, {}),
        "a second attention, chosen by row": lambda streams, rows: attention_chosen_by_row(streams, {edge: rows}),
        "a second attention of the blocked rows": blocked_rows,
        "a dense table": dense,
    }
    if cuda:
        ways["FlexAttention"] = flex()
    rows_of_table = []
    for name, (b, heads, n, e) in (SMALL if args.small else ON_GPU if cuda else SHAPES).items():
        torch.manual_seed(0)
        made = {
            stream: torch.randn(b, n, 3, heads, e, device=device, dtype=dtype).requires_grad_()
            for stream in (IMAGE, FEATURES)
        }
        rows = torch.arange(b, device=device) % 10 == 0

        def work(way: Way, made: dict[str, Tensor] = made, rows: Tensor = rows) -> None:
            for tensor in made.values():
                tensor.grad = None
            attended = way({stream: tuple(t.permute(2, 0, 3, 1, 4)) for stream, t in made.items()}, rows)
            sum(x.float().square().sum() for x in attended.values()).backward()  # pyright: ignore

        for title, way in ways.items():
            repeat = 10 if name == "digits" else 1
            rows_of_table.append(
                in_turns(f"{name}: {title}", partial(work, keys), partial(work, way), args.turns, repeat)
            )
    print(table(rows_of_table, "that way"))
    write_json(args.json, rows_of_table)


if __name__ == "__main__":
    main()
