"""Nearest training images: exact, whatever the batches and the processes."""

import pytest
import torch
from torch import Tensor

from vco.evaluation.neighbours import Neighbours, verdict


def points(count: int, seed: int) -> Tensor:
    return 100 + torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


QUERIES, IMAGES = points(4, 0), points(30, 1)


def found(*parts: Tensor, kept: int = 3) -> Neighbours:
    """The neighbours among images that are seen in parts."""
    neighbours = Neighbours(QUERIES, kept)
    for places in parts:
        neighbours.look(IMAGES[places], places)
    return neighbours


def test_the_nearest_are_kept_the_nearest_first() -> None:
    distances = (QUERIES[:, None].double() - IMAGES[None].double()).norm(dim=-1)
    nearest = found(torch.arange(30))
    assert torch.equal(nearest.indices, distances.argsort(1)[:, :3])
    torch.testing.assert_close(nearest.distances.double(), distances.sort(1).values[:, :3], rtol=1e-4, atol=1e-5)


def test_neither_batches_nor_processes_matter() -> None:
    whole = found(torch.arange(30))
    batches = found(*torch.arange(30).flip(0).split(7))
    processes = [found(torch.arange(rank, 30, 2)) for rank in range(2)]
    processes[1].merge(processes)
    for other in (batches, processes[1]):
        assert torch.equal(other.indices, whole.indices)
        assert torch.equal(other.distances, whole.distances)


def test_a_copy_is_at_distance_zero_and_equal_images_stand_by_number() -> None:
    neighbours = Neighbours(IMAGES[5:6].clone(), 2)
    neighbours.look(IMAGES[[9, 5, 5]], torch.tensor([9, 7, 5]))
    assert neighbours.indices.tolist() == [[5, 7]]
    assert neighbours.distances.tolist() == [[0.0, 0.0]]


def test_fewer_images_than_are_kept_leave_gaps() -> None:
    neighbours = found(torch.tensor([2]), kept=2)
    assert neighbours.indices[0].tolist() == [2, -1]
    assert neighbours.distances[0, 1] == torch.inf


@pytest.mark.parametrize(
    ("near", "said"), [(0, "no more than chance"), (2, "no more than chance"), (30, "more than chance")]
)
def test_samples_are_held_against_what_nobody_can_have_learned(near: int, said: str) -> None:
    held_out = torch.linspace(1, 2, 101)
    samples = torch.cat([torch.full((near,), 0.5), torch.full((100 - near,), 1.5)])
    median, limit, *copies = verdict(samples, held_out)
    assert "held-out images 1.5 (of 101)" in median
    assert limit == f"{near} of 100 samples are nearer than 1.01, as 1 of 100 held-out images is: {said}"
    assert copies == []
    assert verdict(torch.zeros(3), held_out)[-1].startswith("3 of 3 samples have the features of a training image")
