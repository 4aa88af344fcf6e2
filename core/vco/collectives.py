"""Sums and gathered rows over all training processes, through which gradients flow.

A loss or adapter that couples samples uses these, so that one process and many give the same numbers. With one process
they return their input.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed


def sum_over_processes(local: Tensor) -> Tensor:
    """The sum of a tensor over all processes; gradients flow back to each process's part."""
    return _Sum.apply(local) if _several() else local


def gather_rows(local: Tensor) -> Tensor:
    """The rows that the processes have, one below the other in the order of processes; each has as many.

    Gradients flow back to the process that a row came from.
    """
    return _Gather.apply(local) if _several() else local


def own_rows(rows: Tensor) -> Tensor:
    """Of the rows that `gather_rows` gave, those of this process."""
    if not _several():
        return rows
    count = len(rows) // distributed.get_world_size()
    return rows[distributed.get_rank() * count :][:count]


_ALONE = [False]


@contextmanager
def alone() -> Generator[None]:
    """Inside it this process behaves as the only one, and waits for no other."""
    before, _ALONE[0] = _ALONE[0], True
    try:
        yield
    finally:
        _ALONE[0] = before


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and not _ALONE[0]


class _Sum(torch.autograd.Function):
    """all_reduce with a gradient: PyTorch's own with one is deprecated, and what replaces it private."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # the loss of every process depends on this process's part
        return sum_over_processes(gradients[0])


class _Gather(torch.autograd.Function):
    """all_gather with a gradient."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        rows = [
            torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())
        ]
        distributed.all_gather(rows, local.contiguous())
        ctx.count = len(local)
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        start = distributed.get_rank() * ctx.count
        return sum_over_processes(gradients[0])[start : start + ctx.count]
