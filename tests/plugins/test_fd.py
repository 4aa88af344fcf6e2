"""The Frechet distance: its definition, and that neither batches nor processes matter."""

import pytest
import torch
from torch import Tensor

from vco.api import Features, FeatureSpec, MetricSetting, UserError
from vco_plugins.metrics.fd import FD

SPEC = FeatureSpec(tokens=(4, 5), grid=(2, 2))
SETTING = MetricSetting(image_shape=(1, 8, 8), num_classes=10, encoder="some-encoder", features=SPEC)


def vectors(count: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return mean + scale * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def feed(metric: FD, pooled: Tensor, generated: bool, parts: int = 1) -> FD:
    for rows in pooled.chunk(parts):
        images = torch.zeros(len(rows), 1, 8, 8, dtype=torch.uint8)
        metric.update(images, Features(tokens=rows[:, None].expand(-1, 4, -1), grid=(2, 2), pooled=rows), generated)
    return metric


def new() -> FD:
    return FD(FD.Config(), SETTING)


def score(generated: Tensor, real: Tensor, parts: int = 1) -> float:
    return feed(feed(new(), generated, True, parts), real, False, parts).score().value


def by_definition(generated: Tensor, real: Tensor) -> float:
    """With a general matrix root, by the eigenvalues of the product of the covariances."""
    a, b = generated.double(), real.double()
    roots = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).real.clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * roots)


def test_it_is_the_distance_of_two_gaussians() -> None:
    generated, real = vectors(40, 0, mean=0.5, scale=2.0), vectors(30, 1)
    assert score(generated, real) == pytest.approx(by_definition(generated, real), rel=1e-9)


def test_a_shift_alone_costs_its_square() -> None:
    real = vectors(50, 0)
    assert score(real + 3.0, real) == pytest.approx(5 * 9, rel=1e-5)  # float32 sums of the shifted vectors


def test_images_are_at_no_distance_from_themselves() -> None:
    assert score(vectors(50, 0), vectors(50, 0)) == pytest.approx(0, abs=1e-9)


def test_batches_do_not_matter() -> None:
    generated, real = vectors(40, 0, mean=100.0), vectors(30, 1, mean=99.0)
    assert score(generated, real, parts=7) == pytest.approx(score(generated, real), rel=1e-9)


@pytest.mark.parametrize("shares", [(20, 20), (40, 0), (1, 39)])
def test_processes_together_score_as_one(shares: tuple[int, int]) -> None:
    generated, real = vectors(40, 0, mean=0.5), vectors(30, 1)
    processes = [new(), new()]
    for metric, rows in zip(processes, generated.split(shares), strict=True):
        if len(rows):
            feed(metric, rows, True)
    feed(processes[0], real[:10], False)
    feed(processes[1], real[10:], False)
    states = [metric.state() for metric in processes]
    for metric in processes:
        metric.merge(states)
        assert metric.score().value == pytest.approx(score(generated, real), rel=1e-9)


def test_merging_a_single_process_changes_nothing() -> None:
    metric = feed(feed(new(), vectors(9, 0), True, 2), vectors(8, 1), False, 3)
    before = metric.score()
    metric.merge([metric.state()])
    assert metric.score() == before


def test_the_score_tells_its_encoder_and_the_numbers_of_images() -> None:
    said = feed(feed(new(), vectors(9, 0), True), vectors(8, 1), False).score()
    assert said.name == "FD (some-encoder)"
    assert said.protocol == {"generated": 9, "real": 8}
    assert not said.higher_is_better


@pytest.mark.parametrize(("generated", "real"), [(1, 8), (8, 1), (0, 8)])
def test_fewer_than_two_images_are_refused(generated: int, real: int) -> None:
    metric = new()
    for count, kind in ((generated, True), (real, False)):
        if count:
            feed(metric, vectors(count, 0), kind)
    remedy = r"set --eval\.samples to at least 2" if generated < 2 else "hold them against more real images"
    with pytest.raises(UserError, match=rf"at least 2 .* {generated} and {real}: {remedy}"):
        metric.score()
