"""Fixed tables of positions and frequencies: made in float64 on the CPU, so that every machine has the same."""

import torch
from jaxtyping import Float
from torch import Tensor


def table(values: Tensor) -> Tensor:
    """A float64 table made on the CPU (the same on every machine) as float32 on the device in use."""
    return values.float().to(torch.get_default_device())


def frequencies(count: int) -> Float[Tensor, " count"]:
    """10000^(-k / count), float64 on the CPU."""
    return 10_000.0 ** (-torch.arange(count, dtype=torch.float64, device="cpu") / count)


def rows_columns(grid: tuple[int, int]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Row and column of every token in row-major order, float64 on the CPU."""
    rows, columns = (torch.arange(side, dtype=torch.float64, device="cpu") for side in grid)
    return rows.repeat_interleave(grid[1]), columns.repeat(grid[0])


def sincos_2d(grid: tuple[int, int], width: int) -> Float[Tensor, "n d"]:
    """Returns the fixed position table: the first half of the channels tells the column, the second the row.

    Each half is [sin, cos] of position * 10000^(-k / (width / 4)). Source: MAE (arXiv 2111.06377), as used by DiT.
    """
    rows, columns = rows_columns(grid)
    angles = [axis[:, None] * frequencies(width // 4) for axis in (columns, rows)]
    return table(torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1))
