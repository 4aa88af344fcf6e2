"""Batches that are read a step ahead."""

from collections.abc import Iterator

import pytest
import torch

from vco.data.reader import Batch
from vco.errors import SingleProcessError
from vco.training.stopping import UNREADABLE, StopFlag
from vco.training.upcoming import Upcoming


def batches(count: int, broken: int = -1) -> Iterator[Batch]:
    """Some batches; one cannot be read."""
    for number in range(count):
        if number == broken:
            raise SingleProcessError(f"batch {number} cannot be read")
        yield Batch(keys=[(number, 0)], images=torch.empty(0), labels=torch.empty(0), extras={})


def keys(upcoming: Upcoming, count: int) -> list[int]:
    """The images of the next batches."""
    return [upcoming.next().keys[0][0] for _ in range(count)]


def test_batches_come_in_order_and_end_without_a_word() -> None:
    upcoming = Upcoming(batches(5), parts=2)
    assert not upcoming.look(1)
    assert not upcoming.look(2)
    assert keys(upcoming, 2) == [0, 1]
    assert not upcoming.look(2)
    assert keys(upcoming, 3) == [2, 3, 4]
    assert not upcoming.look(2)
    assert upcoming.error is None


@pytest.mark.parametrize("broken", [4, 5])
def test_what_cannot_be_read_is_known_a_step_before_it_is_wanted(broken: int) -> None:
    upcoming = Upcoming(batches(9, broken), parts=2)
    flag, done = StopFlag(10), 0
    try:
        assert flag.agreed(upcoming.look(1)) == 0
        while not (stopping := flag.agreed(upcoming.look(2))):
            keys(upcoming, 2)
            done += 1
    finally:
        flag.close()
    assert stopping == UNREADABLE
    assert done == 2  # whole steps, of the batches before the broken one
    assert str(upcoming.error) == f"batch {broken} cannot be read"


def test_a_first_step_that_cannot_be_read_is_not_begun() -> None:
    upcoming = Upcoming(batches(9, broken=1), parts=2)
    flag = StopFlag(10)
    try:
        flag.agreed(upcoming.look(1))
        assert flag.agreed(upcoming.look(2)) == UNREADABLE
    finally:
        flag.close()
