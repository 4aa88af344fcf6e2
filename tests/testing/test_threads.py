"""Threads in the place of processes."""

import threading

import pytest
import torch
from torch import Tensor, distributed

from vco.testing.threads_as_processes import as_processes


def ranks() -> Tensor:
    """The rank of this thread as a tensor."""
    assert distributed.is_initialized()
    return torch.tensor([float(distributed.get_rank())])


def reduced(op: distributed.ReduceOp.RedOpType) -> list[float]:
    """What three threads have after reducing 0, 1 and 2."""

    def work() -> Tensor:
        x = ranks()
        distributed.all_reduce(x, op=op)
        return x

    return [x.item() for x in as_processes([work] * 3)]


def test_sums_means_and_extremes_are_those_of_all() -> None:
    ops = distributed.ReduceOp
    expected = {ops.SUM: 3.0, ops.AVG: 1.0, ops.MAX: 2.0, ops.MIN: 0.0}
    for op, value in expected.items():
        assert reduced(op) == [value] * 3


NAMES = [name for name in ("all_gather_into_tensor", "all_gather_single") if hasattr(distributed, name)]
"""What this PyTorch calls gathering into one tensor."""


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_gathered_in_the_order_of_ranks(name: str) -> None:
    def work() -> Tensor:
        x = ranks()
        rows = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(rows, x)
        together = x.new_empty(3)
        getattr(distributed, name)(together, x)
        assert torch.equal(torch.cat(rows), together)
        return together

    assert [x.tolist() for x in as_processes([work] * 3)] == [[0.0, 1.0, 2.0]] * 3


def test_what_fails_in_one_thread_is_raised_and_no_other_waits_for_it() -> None:
    def work() -> None:
        if distributed.get_rank() == 1:
            raise ValueError("no")
        distributed.all_reduce(ranks())

    before = threading.active_count()
    with pytest.raises(ValueError, match="no"):
        as_processes([work] * 3)
    assert threading.active_count() == before


def test_afterwards_there_is_one_process_again() -> None:
    as_processes([lambda: None] * 2)
    assert not distributed.is_initialized()
