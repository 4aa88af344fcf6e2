"""The drifting loss: the golden vector, and what its definition implies."""

from pathlib import Path
from typing import Any

import pytest
import steps
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from vco.api import IMAGE, Features, FeatureSource, FeatureSpec, LossSetting, Step, StreamSpec
from vco_plugins.losses.drifting import Drifting, drifting_loss


def vectors(count: int, c: float) -> Tensor:
    """M(b, i, d; c) of the mechanisms' specification, as rows b-major; B = 2, S = 5."""
    b, i, d = torch.meshgrid(torch.arange(2), torch.arange(count), torch.arange(5), indexing="ij")
    return (torch.sin(0.7 * b + 1.3 * i + 2.1 * d + c) + 0.1 * torch.cos(0.9 * b * i + 0.4 * d * i + c)).flatten(0, 1)


def test_drifting_golden_vector() -> None:
    generated = vectors(3, 0.1).requires_grad_()
    negatives, positives = vectors(2, 0.5), vectors(4, 0.9)
    groups = torch.arange(2).repeat_interleave(3)
    mine = groups[:, None] == torch.arange(2).repeat_interleave(2)
    weights = torch.cat([mine * torch.tensor([0.5, 2.0])[groups, None], groups[:, None] == torch.arange(8) // 4], dim=1)
    positive = torch.cat([torch.zeros(6, 4), torch.ones(6, 8)], dim=1).bool()
    others = torch.cat([negatives, positives])
    loss, forces = drifting_loss(generated, others, groups=groups, positive=positive, weights=weights.float())
    problems = loss.view(2, 3).mean(1)
    (gradient,) = torch.autograd.grad(problems.sum(), generated)
    # six digits are given, and float32
    torch.testing.assert_close(forces, torch.tensor([0.0653496, 0.0312815, 0.00107007]), rtol=1e-4, atol=0)
    torch.testing.assert_close(problems.detach(), torch.tensor([1.175169, 14.59679]), rtol=1e-4, atol=0)
    expected = torch.tensor([0.0755603, 0.0316403, -0.0802679, 0.0815108, 0.0216314])
    torch.testing.assert_close(gradient[0], expected, rtol=1e-3, atol=1e-6)


class Flat(FeatureSource):
    """The image itself, and one patch token of twice the image."""

    def load(self) -> None: ...

    def forward(self, images: Tensor) -> Features:
        flat = images.flatten(1)
        return Features(tokens=2 * flat[:, None], grid=(1, 1), pooled=flat)


def make_step(predicted: Tensor, images: Tensor, labels: Tensor) -> Step:
    return steps.make_step(predicted, images, labels, {"flat": Flat()})


def make(**options: Any) -> Drifting:
    setting = LossSetting(
        width=8,
        grid=(1, 1),
        depth=2,
        features={"flat": FeatureSpec(tokens=(1, 4), grid=(1, 1))},
        streams={IMAGE: StreamSpec(shape=(1, 2, 2))},
        num_classes=10,
    )
    return Drifting(Drifting.Config(**options), setting)


def images_of(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


def drift(predicted: Tensor, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """The direction in which each prediction is driven."""
    predicted = predicted.clone().requires_grad_()
    make(**options)(make_step(predicted, images, labels))["drifting"].sum().backward()
    assert predicted.grad is not None
    return -predicted.grad


def test_a_prediction_drifts_to_the_clean_image_of_its_class() -> None:
    predicted, images = images_of(1), images_of(1, seed=1)
    direction = drift(predicted, images, torch.tensor([3]))
    cosine = torch.nn.functional.cosine_similarity(direction.flatten(), (images - predicted).flatten(), dim=0)
    assert cosine.item() == pytest.approx(1.0, abs=1e-4)  # float32


def test_without_guidance_other_classes_only_set_the_unit() -> None:
    predicted, images = images_of(6), images_of(6, seed=1)
    moved = images.clone()
    moved[LABELS == 1] = moved[LABELS == 1].flip(0)  # as many, as far: neither distances nor sizes change
    zeros = LABELS == 0
    ours, theirs = drift(predicted, images, LABELS)[zeros], drift(predicted, moved, LABELS)[zeros]
    torch.testing.assert_close(ours, theirs)


def test_guidance_pushes_away_from_clean_images_of_other_classes() -> None:
    predicted = torch.zeros(2, 1, 2, 2)
    predicted[1] = 5.0
    images = torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), -0.5)])
    images[0, 0, 0, 0] = 0.0  # towards the own image the first pixel does not move ...
    labels = torch.tensor([0, 0])
    other = torch.tensor([0, 1])
    images[1, 0, 0, 0] = -2.0
    without = drift(predicted, images, other)[0, 0, 0, 0]
    assert without.abs() < 1e-6
    # ... but away from another class's image it does; a class of two makes the weight (alpha - 1)(2 - 1) / 1
    crowd, real = torch.cat([predicted[:1], predicted[:1] + 0.1, predicted[1:]]), torch.cat([images[:1], images])
    classes = torch.cat([labels, torch.ones(1, dtype=torch.int64)])
    guided = drift(crowd, real, classes, alpha=4.0) - drift(crowd, real, classes)
    assert guided[0, 0, 0, 0] > 0


def test_order_of_the_samples_does_not_matter() -> None:
    predicted, images = images_of(6), images_of(6, seed=1)
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    loss = make(alpha=2.0)
    one = loss(make_step(predicted, images, LABELS))["drifting"]
    other = loss(make_step(predicted[order], images[order], LABELS[order]))["drifting"]
    torch.testing.assert_close(other, one[order], rtol=1e-4, atol=1e-5)  # sums in another order


def test_the_scale_of_the_features_does_not_matter() -> None:
    predicted, images = images_of(6), images_of(6, seed=1)
    one = make()(make_step(predicted, images, LABELS))["drifting"]
    other = make()(make_step(30 * predicted, 30 * images, LABELS))["drifting"]
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)  # but for the guards against zero


def test_mean_pooling_reads_the_tokens() -> None:
    predicted, images = images_of(6), images_of(6, seed=1)
    pooled = make()(make_step(2 * predicted, 2 * images, LABELS))["drifting"]
    tokens = make(pooling="mean")(make_step(predicted, images, LABELS))["drifting"]
    torch.testing.assert_close(tokens, pooled)


def test_equal_predictions_and_images_give_finite_losses() -> None:
    same = torch.ones(6, 1, 2, 2)
    assert make()(make_step(same, same, LABELS))["drifting"].isfinite().all()


def test_forces_are_logged() -> None:
    loss = make()
    loss(make_step(images_of(6), images_of(6, seed=1), LABELS))
    metrics = loss.metrics()
    assert list(metrics) == ["force_0.2", "force_0.05", "force_0.02"]
    assert all(force > 0 for force in metrics.values())


def test_it_declares_that_it_needs_whole_groups() -> None:
    assert Drifting.grouped
    assert Drifting.couples_batch


def part(rows: slice, alpha: float) -> tuple[Tensor, Tensor]:
    """Loss and gradient of some rows of a batch of two classes, one after the other."""
    predicted = images_of(8)[rows].requires_grad_()
    labels = torch.arange(2).repeat_interleave(4)[rows]
    loss = make(alpha=alpha)(make_step(predicted, images_of(8, seed=1)[rows], labels))["drifting"]
    loss.mean().backward()
    assert predicted.grad is not None
    return loss.detach(), predicted.grad


def work(rank: int, folder: str) -> None:
    """One of two processes, with half of the classes."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for alpha in (1.0, 3.0):  # alone, the classes of this process; repelled by those of the other
        torch.save(part(slice(rank * 4, rank * 4 + 4), alpha), f"{folder}/{rank}-{alpha}.pt")
    distributed.destroy_process_group()


def test_two_processes_drift_as_one(tmp_path: Path) -> None:
    spawn(work, args=(str(tmp_path),), nprocs=2)
    for alpha in (1.0, 3.0):
        loss, gradient = part(slice(0, 8), alpha)
        halves = [torch.load(tmp_path / f"{rank}-{alpha}.pt") for rank in range(2)]
        torch.testing.assert_close(torch.cat([half[0] for half in halves]), loss, rtol=1e-4, atol=1e-5)
        # gradients of a mean over half the rows are twice those of a mean over all
        torch.testing.assert_close(torch.cat([half[1] for half in halves]) / 2, gradient, rtol=1e-4, atol=1e-6)
