"""Distances by a matrix product, and losses that a CPU computes class by class and a GPU at once."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from vco_plugins import distances
from vco_plugins.losses import drifting, hybrid


def test_distances_are_exact_where_vectors_are_near() -> None:
    a = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    b = a + 1e-4 * torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    exact = (a.double()[:, None] - b.double()).square().sum(-1)
    torch.testing.assert_close(distances.squared_distances(a, b), exact.float(), rtol=1e-6, atol=0)


def test_the_distance_to_itself_is_not_below_zero() -> None:
    a = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    assert float(distances.squared_distances(a, a).diagonal().min()) >= 0


def test_the_blocks_of_a_cpu_are_its_classes() -> None:
    labels = torch.tensor([3, 1, 3, 3, 0, 1])
    assert [rows.tolist() for rows in distances.blocks(labels) if isinstance(rows, Tensor)] == [[4], [1, 5], [0, 2, 3]]


def test_a_single_class_is_one_block() -> None:
    assert distances.blocks(torch.tensor([7, 7, 7])) == [slice(None)]


def all_at_once(labels: Tensor) -> Sequence[slice]:
    return [slice(None)]


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_losses_are_the_same_class_by_class_and_at_once(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.tensor([3, 1, 3, 3, 0, 1, 1, 3])
    vectors, real = torch.randn(8, 16, generator=draws), torch.randn(8, 16, generator=draws)
    same = labels[:, None] == labels

    def losses() -> list[Tensor]:
        generated = vectors.clone().requires_grad_()
        pulled = hybrid.hybrid_loss(generated, real, labels)
        drifted, force = drifting.drifting_loss(
            generated, real, groups=labels, positive=same, weights=torch.where(same, 1.0, alpha - 1)
        )
        (pulled.sum() + drifted.sum()).backward()
        assert generated.grad is not None
        return [pulled.detach(), drifted.detach(), force, generated.grad]

    by_class = losses()
    for module in (hybrid, drifting):
        monkeypatch.setattr(module, "blocks", all_at_once)
    for one, other in zip(by_class, losses(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
