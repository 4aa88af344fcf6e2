"""Values of the metrics: against torch-fidelity and against numpy in float64, on the same features."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from vco.api import Features, FeatureSpec, Metric, MetricSetting, Moments, UserError
from vco_plugins.metrics.fd import FD
from vco_plugins.metrics.inception_score import InceptionScore
from vco_plugins.metrics.kid import KID
from vco_plugins.metrics.mind import MIND
from vco_plugins.metrics.prc import PRC

WIDTH, CLASSES = 6, 5
SPEC = FeatureSpec(tokens=(4, WIDTH), grid=(2, 2), classes=CLASSES)
SETTING = MetricSetting(image_shape=(1, 8, 8), num_classes=10, encoder="some-encoder", features=SPEC)
EXACT = 1e-6
"""Relative difference to values that others compute from the same features."""


def vectors(count: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return mean + scale * torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def fed(metric: Metric, generated: Tensor, real: Tensor, logits: Tensor | None = None, batch: int = 1000) -> Metric:
    for rows, kind in ((generated, True), (real, False)):
        draws = torch.Generator().manual_seed(int(kind))
        images = torch.randint(0, 256, (len(rows), 1, 8, 8), dtype=torch.uint8, generator=draws)
        said = logits if kind and logits is not None else torch.zeros(len(rows), CLASSES)
        for places in torch.arange(len(rows)).split(batch):
            if len(places) == 0:
                continue
            part = rows[places]
            features = Features(tokens=part[:, None].expand(-1, 4, -1), grid=(2, 2), pooled=part, logits=said[places])
            metric.update(images[places], features, kind)
    return metric


def value(metric: Metric, generated: Tensor, real: Tensor, logits: Tensor | None = None) -> float:
    return fed(metric, generated, real, logits).score().value


GENERATED, REAL = vectors(60, 0, mean=0.4, scale=1.3), vectors(60, 1)

# ------------------------------------------------------------------------------------------------------------------- FD


def test_fd_is_torch_fidelitys() -> None:
    first, second = (fid_features_to_statistics(features.double()) for features in (GENERATED, REAL))
    expected = fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]
    assert value(FD(FD.Config(), SETTING), GENERATED, REAL) == pytest.approx(expected, rel=EXACT)


def test_fd_against_published_moments_is_fd_against_their_images() -> None:
    real = REAL.double().numpy()
    moments = Moments(mean=torch.from_numpy(real.mean(0)), covariance=torch.from_numpy(np.cov(real, rowvar=False)))
    metric = FD(FD.Config(), SETTING)
    metric.merge([fed(FD(FD.Config(), SETTING), GENERATED, REAL[:0]).state()])
    metric.hold_against(moments)
    score = metric.score()
    assert score.value == pytest.approx(value(FD(FD.Config(), SETTING), GENERATED, REAL), rel=1e-9)
    assert score.protocol == {"generated": 60, "real": None}


# ------------------------------------------------------------------------------------------------------------------ KID


def kid_in_numpy(generated: Tensor, real: Tensor) -> float:
    x, y = generated.double().numpy(), real.double().numpy()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / WIDTH + 1) ** 3

    def within(a: np.ndarray) -> float:
        return (kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


@pytest.mark.parametrize(("generated", "real"), [(60, 60), (60, 41), (7, 50)])
def test_kid_is_the_unbiased_estimate_from_all_pairs(generated: int, real: int) -> None:
    x, y = GENERATED[:generated], REAL[:real]
    assert value(KID(KID.Config(), SETTING), x, y) == pytest.approx(kid_in_numpy(x, y), rel=EXACT)


def test_kid_is_torch_fidelitys_where_one_subset_is_all() -> None:
    found = kid_features_to_metric(GENERATED.double(), REAL.double(), kid_subsets=1, kid_subset_size=60, verbose=False)
    expected = found["kernel_inception_distance_mean"]
    assert value(KID(KID.Config(), SETTING), GENERATED, REAL) == pytest.approx(expected, rel=EXACT)


def test_kid_in_blocks_is_kid_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = value(KID(KID.Config(), SETTING), GENERATED, REAL)
    monkeypatch.setattr("vco_plugins.metrics.kid.ROWS", 7)
    assert value(KID(KID.Config(), SETTING), GENERATED, REAL) == pytest.approx(whole, rel=1e-12)


def test_kid_of_samples_of_one_distribution_is_near_zero() -> None:
    values = [value(KID(KID.Config(), SETTING), vectors(40, 2 * seed), vectors(40, 2 * seed + 1)) for seed in range(20)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / 20**0.5
    assert value(KID(KID.Config(), SETTING), GENERATED, REAL) > 3 * max(values)


# ----------------------------------------------------------------------------------------------------------------- MIND


def mind_in_numpy(generated: Tensor, real: Tensor, directions: int) -> float:
    draws = torch.randn(directions, WIDTH, generator=torch.Generator().manual_seed(2020))
    unit = (draws / draws.norm(dim=1, keepdim=True)).double().numpy()
    x, y = (np.sort(features.double().numpy() @ unit.T, 0) for features in (generated, real))
    return 3 * WIDTH * float(((x - y) ** 2).mean())


def test_mind_is_the_published_formula() -> None:
    found = value(MIND(MIND.Config(directions=100), SETTING), GENERATED, REAL)
    assert found == pytest.approx(mind_in_numpy(GENERATED, REAL, 100), rel=EXACT)


@pytest.mark.parametrize(("generated", "real"), [(4, 6), (6, 4), (5, 7), (12, 3)])
def test_mind_of_unequal_numbers_is_that_of_copies_that_make_them_equal(generated: int, real: int) -> None:
    x, y = GENERATED[:generated], REAL[:real]
    expected = mind_in_numpy(x.repeat_interleave(real, 0), y.repeat_interleave(generated, 0), 50)
    assert value(MIND(MIND.Config(directions=50), SETTING), x, y) == pytest.approx(expected, rel=EXACT)


def test_mind_of_a_shift_is_three_times_its_square() -> None:
    found = value(MIND(MIND.Config(directions=20_000), SETTING), REAL + 2.0, REAL)
    # the mean square of a random direction's component is 1 / width; 20,000 of them know it to about a hundredth
    assert found == pytest.approx(3 * WIDTH * 4.0, rel=0.03)


def test_mind_is_zero_for_equal_sets() -> None:
    assert value(MIND(MIND.Config(), SETTING), REAL, REAL.flip(0)) == pytest.approx(0, abs=1e-12)


# ------------------------------------------------------------------------------------------------- precision and recall


def prc_in_numpy(generated: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    x, y = generated.double().numpy(), real.double().numpy()

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        radii = np.sort(distances(centres, centres), 1)[:, k]
        return float((distances(points, centres) <= radii).any(1).mean())

    return covered(x, y), covered(y, x)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_those_of_the_definition_and_torch_fidelitys(k: int) -> None:
    generated = vectors(50, 5, mean=1.0, scale=0.6)
    metric = fed(PRC(PRC.Config(neighbours=k), SETTING), generated, REAL)
    found = {score.name: score.value for score in metric.scores()}
    precision, recall = prc_in_numpy(generated, REAL, k)
    assert 0 < precision < 1
    assert 0 < recall < 1
    assert found == pytest.approx({"precision (some-encoder)": precision, "recall (some-encoder)": recall}, rel=EXACT)
    theirs = prc_features_to_metric(generated.double(), REAL.double(), prc_neighborhood=k, verbose=False)
    assert list(found.values()) == pytest.approx([theirs["precision"], theirs["recall"]], rel=EXACT)
    assert metric.score() == metric.scores()[0]
    assert all(score.higher_is_better and score.protocol["neighbours"] == k for score in metric.scores())


def test_distances_in_blocks_change_no_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [score.value for score in fed(PRC(PRC.Config(), SETTING), GENERATED, REAL).scores()]
    monkeypatch.setattr("vco_plugins.metrics.prc.ROWS", 7)
    assert [score.value for score in fed(PRC(PRC.Config(), SETTING), GENERATED, REAL).scores()] == whole


# ------------------------------------------------------------------------------------------------------ inception score

LOGITS = 3 * torch.randn(60, CLASSES, generator=torch.Generator().manual_seed(9))


def test_is_of_one_part_is_the_definition_and_torch_fidelitys() -> None:
    found = value(InceptionScore(InceptionScore.Config(parts=1), SETTING), GENERATED, REAL, LOGITS)
    p = torch.softmax(LOGITS.double(), 1).numpy()
    expected = float(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))
    assert found == pytest.approx(expected, rel=EXACT)
    theirs = isc_features_to_metric(LOGITS, splits=1, shuffle=False)["inception_score_mean"]
    assert found == pytest.approx(theirs, rel=EXACT)


def test_is_averages_parts_of_equal_size_whose_images_their_pixels_choose() -> None:
    ten = InceptionScore(InceptionScore.Config(), SETTING)
    found = fed(ten, GENERATED, REAL, LOGITS).score()
    state = ten.state()
    order = state["keys"].argsort()
    expected = isc_features_to_metric(state["logits"][order], splits=10, shuffle=False)["inception_score_mean"]
    assert found.value == expected
    assert found.value < value(InceptionScore(InceptionScore.Config(parts=1), SETTING), GENERATED, REAL, LOGITS)
    assert found.protocol == {"generated": 60, "parts": 10}
    other = InceptionScore(InceptionScore.Config(), SETTING)
    assert fed(other, GENERATED, REAL, LOGITS, batch=7).score() == found


def test_is_needs_a_classifier_and_as_many_images_as_parts() -> None:
    blind = MetricSetting(
        image_shape=(1, 8, 8), num_classes=10, encoder="some-encoder", features=FeatureSpec(tokens=(4, 6), grid=(2, 2))
    )
    with pytest.raises(UserError, match=r"tells classes, and some-encoder does not; use inception"):
        InceptionScore(InceptionScore.Config(), blind)
    with pytest.raises(UserError, match=r"10 parts .* 9 generated images: set --eval.samples to at least 10"):
        value(InceptionScore(InceptionScore.Config(), SETTING), GENERATED[:9], REAL, LOGITS)


# ------------------------------------------------------------------------------------------------------ what all have

ALL = {
    "fd": lambda: FD(FD.Config(), SETTING),
    "kid": lambda: KID(KID.Config(), SETTING),
    "mind": lambda: MIND(MIND.Config(directions=64), SETTING),
    "prc": lambda: PRC(PRC.Config(), SETTING),
    "is": lambda: InceptionScore(InceptionScore.Config(), SETTING),
}


@pytest.mark.parametrize("name", ALL)
def test_one_process_and_two_and_any_batch_have_the_same_value(name: str) -> None:
    make = ALL[name]
    expected = [score.value for score in fed(make(), GENERATED, REAL, LOGITS).scores()]
    small = fed(make(), GENERATED, REAL, LOGITS, batch=7)
    assert [score.value for score in small.scores()] == pytest.approx(expected, rel=1e-9)
    draws = [torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(s))
             for s in (1, 0)]  # fmt: skip
    processes = [make(), make()]
    for rank, metric in enumerate(processes):
        for images, rows, kind in ((draws[0], GENERATED, True), (draws[1], REAL, False)):
            mine = slice(rank, None, 2)
            features = Features(
                tokens=rows[mine, None].expand(-1, 4, -1), grid=(2, 2), pooled=rows[mine], logits=LOGITS[mine]
            )
            metric.update(images[mine], features, kind)
    merged = make()
    merged.merge([metric.state() for metric in processes])
    assert [score.value for score in merged.scores()] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["kid", "mind", "prc", "is"])
def test_what_needs_the_images_refuses_moments(name: str) -> None:
    moments = Moments(mean=torch.zeros(WIDTH, dtype=torch.float64), covariance=torch.eye(WIDTH, dtype=torch.float64))
    metric = fed(ALL[name](), GENERATED, REAL, LOGITS)
    assert metric.moments() is None
    with pytest.raises(UserError, match="real images themselves"):
        metric.hold_against(moments)


@pytest.mark.parametrize(("name", "least"), [("kid", 2), ("mind", 2), ("prc", 4)])
def test_too_few_images_are_refused_with_their_numbers(name: str, least: int) -> None:
    with pytest.raises(UserError, match=rf"at least {least} generated .* {least - 1} and 60: set --eval.samples"):
        value(ALL[name](), GENERATED[: least - 1], REAL)
