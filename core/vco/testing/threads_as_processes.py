"""Threads that stand in for training processes: what is summed over processes is summed over them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, distributed

Result = TypeVar("Result")
PATIENCE = 60.0
"""Seconds after which a thread stops waiting for one that never comes to the sum."""


def as_processes(works: Sequence[Callable[[], Result]]) -> list[Result]:
    """Runs each work in a thread that takes itself for one of `len(works)` processes, and returns what they give.

    `torch.distributed` says so to whoever asks it (is_initialized, get_rank, get_world_size), and sums and gathers over
    the threads. Who has imported these functions by name asks others, which know of no processes.

    Raises:
        Exception: the first that a work has raised.
    """
    group = _Group(len(works))

    def process(rank: int) -> Result:
        group.rank.here = rank
        try:
            return works[rank]()
        except BaseException:
            group.meeting.abort()  # the others would wait for this one
            raise

    with mock.patch.multiple(distributed, **group.functions()), ThreadPoolExecutor(len(works)) as pool:
        found = [pool.submit(process, rank) for rank in range(len(works))]
    errors = [error for future in found if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in found]


class _Group:
    """What the threads share."""

    def __init__(self, size: int) -> None:
        self.size, self.rank = size, threading.local()
        self.meeting = threading.Barrier(size, timeout=PATIENCE)
        self.brought: list[Tensor] = [torch.empty(0)] * size

    def functions(self) -> dict[str, Any]:
        """Those of `torch.distributed` that are replaced."""
        names = ("all_gather_into_tensor", "all_gather_single")  # one function, which PyTorch has renamed
        gather = {name: self.all_gather_into_tensor for name in names if hasattr(distributed, name)}
        return {
            "is_initialized": lambda: True,
            "get_rank": lambda group=None: self.rank.here,
            "get_world_size": lambda group=None: self.size,
            "all_reduce": self.all_reduce,
            "all_gather": self.all_gather,
            **gather,
        }

    def exchange(self, tensor: Tensor) -> list[Tensor]:
        """What every thread brought, in the order of ranks."""
        self.brought[self.rank.here] = tensor.detach().clone()
        self.meeting.wait()
        everything = list(self.brought)
        self.meeting.wait()  # nobody brings something else before all have taken this
        return everything

    def all_reduce(self, tensor: Tensor, op: Any = distributed.ReduceOp.SUM, group: Any = None) -> None:
        parts, ops = torch.stack(self.exchange(tensor)), distributed.ReduceOp
        reductions = ((ops.SUM, parts.sum), (ops.AVG, parts.mean), (ops.MAX, parts.amax), (ops.MIN, parts.amin))
        with torch.no_grad():
            tensor.copy_(next(reduce for known, reduce in reductions if known == op)(0))

    def all_gather(self, tensors: list[Tensor], tensor: Tensor, group: Any = None) -> None:
        with torch.no_grad():
            for place, part in zip(tensors, self.exchange(tensor), strict=True):
                place.copy_(part)

    def all_gather_into_tensor(self, output: Tensor, tensor: Tensor, group: Any = None) -> None:
        with torch.no_grad():
            output.copy_(torch.cat(self.exchange(tensor)))
