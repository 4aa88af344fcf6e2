"""The learned schedule: its curve, the factors of the loss, and how it learns."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import tiny
import torch
from torch import Tensor

from vco.api import FEATURES, IMAGE, Denoised, ProcessSetting, StreamSpec, Times, UserError
from vco_plugins.processes.learned import Learned
from vco_plugins.processes.shared import Shared

STREAMS = {IMAGE: StreamSpec(shape=(1, 8, 8)), FEATURES: StreamSpec(shape=(16, 4), grid=(4, 4))}
THREE: Any = {"powers": (1.0, 2.0, 4.0), "shares": (1.0, 1.0, 1.0)}
CLOCK = torch.tensor([0.25, 0.5, 0.75])
MIDPOINTS = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
"""A uniform clock, over which means have an error of 1e-10."""


def make(attached: bool = False, **options: Any) -> Learned:
    return Learned(Learned.Config(attached=attached, **options), ProcessSetting(streams=STREAMS))


def at(process: Learned, clock: Tensor = CLOCK) -> Times:
    """The times of all streams at times of the clock."""
    return process._at(clock)


def close(found: Tensor, *expected: float) -> None:
    # the numbers are given to six places
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=6e-7)


# ----------------------------------------------------------------------------------------------------------- the curve


def test_the_image_stays_behind_on_a_mixture_of_powers() -> None:
    process = make(**THREE)
    close(at(process)[IMAGE].detach(), 0.105469, 0.270833, 0.542969)
    close(process.pace(CLOCK).detach(), 0.520833, 0.833333, 1.395833)
    close(process.pace(torch.tensor([0.0, 1.0])).detach(), 1 / 3, 7 / 3)
    skewed = make(powers=THREE["powers"], shares=tuple(math.exp(k) for k in range(3)))
    close(at(skewed)[IMAGE].detach(), 0.040402, 0.147775, 0.415669)


def test_the_features_follow_the_clock() -> None:
    assert torch.equal(at(make())[FEATURES], CLOCK)


def test_the_mean_square_of_the_pace_and_its_gradient() -> None:
    process = make(**THREE).double()
    mean = process.pace(MIDPOINTS).square().mean()
    close(mean.detach()[None], 1.313228)
    mean.backward()
    assert process.theta.grad is not None
    close(process.theta.grad, -0.208818, -0.001411, 0.210229)


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.1, 0.1), (1.0, 1.0, 1.0, 1.0), (0.001, 0.001, 0.001, 1.0)])
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_paths_are_convex_and_run_from_exactly_0_to_exactly_1(shares: tuple[float, ...], steps: int) -> None:
    path = make(shares=shares).path(steps)
    for t in path.values():
        assert t.dtype == torch.float64
        assert not t.requires_grad
        assert (t[0], t[-1]) == (0, 1)
        assert (t.diff() >= 0).all()
    assert (path[IMAGE].diff().diff() > -1e-12).all()
    assert (path[IMAGE] <= path[FEATURES]).all()


def test_training_times_are_float32_in_the_unit_interval_and_carry_gradients() -> None:
    times = make().sample(40_000, torch.Generator().manual_seed(0))
    for t in times.values():
        assert t.dtype == torch.float32
        assert t.min() >= 0
        assert t.max() <= 1
    assert times[IMAGE].requires_grad
    assert not times[FEATURES].requires_grad


# --------------------------------------------------------------------------------------------------------- the factors


def test_what_times_count_by_a_uniform_law_is_the_pace_and_one() -> None:
    process = make(law="uniform", **THREE)
    counts = process.counts(at(process))
    close(counts[IMAGE].detach(), 0.520833, 0.833333, 1.395833)
    assert torch.equal(counts[FEATURES], torch.ones(3))


def test_what_times_count_by_a_logit_normal_law() -> None:
    process = make(mean=0.0, std=1.0, **THREE)
    counts = process.counts(at(process))
    # five digits of float32 at the steep ends of the density
    torch.testing.assert_close(
        counts[IMAGE].detach(), torch.tensor([0.224082, 1.030867, 2.210937]), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(counts[FEATURES], process._density(CLOCK))


@pytest.mark.parametrize("law", ["uniform", "logit-normal"])
def test_what_times_count_has_an_integral_of_one(law: Any) -> None:
    process = make(law=law).double()
    for count in process.counts(at(process, MIDPOINTS)).values():
        assert count.mean().item() == pytest.approx(1, abs=1e-6)


def test_factors_are_what_times_count_over_what_is_drawn() -> None:
    process = make()
    counts, weights = process.counts(at(process)), process.weight(at(process))
    for name in STREAMS:
        torch.testing.assert_close(weights[name], 2 * counts[name] / (counts[IMAGE] + counts[FEATURES]))
        assert (weights[name] <= 2).all()


@pytest.mark.parametrize("stream", [IMAGE, FEATURES])
def test_weighted_times_of_each_stream_follow_the_law(stream: str) -> None:
    process, count = make(shares=(1.0, 1.0, 1.0, 1.0)), 40_000
    times = process.sample(count, torch.Generator().manual_seed(0))
    weight, t = process.weight(times)[stream], times[stream].detach()
    away = (t.logit() + 0.8) / 0.8
    # five standard errors; the weights are at most 2
    assert weight.mean().item() == pytest.approx(1, abs=5 / 200)
    assert (weight * away).mean().item() == pytest.approx(0, abs=5 * 2 / 200)
    assert (weight * away**2).mean().item() == pytest.approx(1, abs=5 * 4 / 200)


def test_an_image_that_keeps_up_is_drawn_as_in_a_shared_process() -> None:
    process = make(powers=(1.0,), shares=(1.0,))
    times = process.sample(1000, torch.Generator().manual_seed(0))
    shared = Shared(Shared.Config(), ProcessSetting(streams=STREAMS)).sample(1000, torch.Generator().manual_seed(0))
    for name, weight in process.weight(times).items():
        torch.testing.assert_close(times[name].detach(), shared[name])
        torch.testing.assert_close(weight, torch.ones(1000))


def test_nothing_counts_where_a_stream_is_clean() -> None:
    for law in ("uniform", "logit-normal"):
        process = make(law=law)
        one = torch.ones(1)
        assert all(float(w) == 0 for w in process.weight({IMAGE: one, FEATURES: one}).values())


@pytest.mark.parametrize(("attached", "expected"), [(True, (0.0, 0.0, 0.0)), (False, (0.045797, 0.003527, -0.049324))])
def test_the_gradient_through_the_times_alone_and_through_the_factor_too(
    attached: bool, expected: tuple[float, ...]
) -> None:
    process = make(law="uniform", attached=attached, **THREE).double()
    times = at(process, MIDPOINTS)
    drawn = torch.stack(list(process.counts(times).values())).mean(0).detach()  # weights are for times drawn like this
    (drawn * process.weight(times)[IMAGE] * times[IMAGE].square()).mean().backward()
    assert process.theta.grad is not None
    close(process.theta.grad, *expected)


# ---------------------------------------------------------------------------------------------------- the kinetic term


def test_the_kinetic_term_is_the_mean_square_of_the_paced_velocity() -> None:
    process = make(kinetic=0.5, **THREE)
    velocity = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    times = at(process)
    term = process.losses(times, Denoised(velocity={IMAGE: velocity}))["kinetic"]
    pace = process.pace(CLOCK)
    torch.testing.assert_close(term, 0.5 * (pace[:, None, None, None] * velocity).square().mean())
    term.backward()
    assert velocity.grad is None  # it teaches the curve, and does not slow the network down
    assert process.theta.grad is not None


@pytest.mark.parametrize("options", [{}, {"kinetic": 0.5, "learn_steps": 0}])
def test_without_weight_or_learning_there_is_no_kinetic_term(options: Any) -> None:
    process = make(**options)
    assert process.losses(at(process), Denoised(velocity={IMAGE: torch.ones(3, 1, 8, 8)})) == {}


# -------------------------------------------------------------------------------------------------------- its settings


def test_the_curve_stands_still_after_its_steps() -> None:
    process = make(rate=3.0, learn_steps=20)
    assert [process.learning_rate_scale(step) for step in (0, 19, 20, 1000)] == [3.0, 3.0, 0.0, 0.0]


def test_a_curve_that_never_learns_has_no_trained_weights() -> None:
    process = make(learn_steps=0)
    assert not process.theta.requires_grad
    assert not process.sample(4, torch.Generator().manual_seed(0))[IMAGE].requires_grad


def test_what_is_logged_can_be_given_as_shares() -> None:
    first = make(shares=(4.0, 3.0, 2.0, 1.0))
    logged = {name: float(value) for name, value in first.metrics().items()}
    assert logged == pytest.approx(
        {"share_of_power_1": 0.4, "share_of_power_2": 0.3, "share_of_power_4": 0.2, "share_of_power_8": 0.1}
    )
    again = make(shares=tuple(logged.values()))
    torch.testing.assert_close(again.path(10)[IMAGE], first.path(10)[IMAGE], rtol=0, atol=1e-7)  # theta is float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"powers": (0.5, 1.0, 2.0, 4.0)}, "powers"),
        ({"powers": (1.0, 2.0)}, r"shares \(4 numbers\) need one number for each of the powers \(2\)"),
        ({"shares": (1.0, 0.0, 1.0, 1.0)}, "shares"),
        ({"law": "normal"}, "law"),
        ({"kinetic": -1.0}, "kinetic"),
    ],
)
def test_settings_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Learned.Config(**options)


def test_a_run_of_images_alone_is_refused() -> None:
    with pytest.raises(UserError, match="--process shared"):
        Learned(Learned.Config(), ProcessSetting(streams={IMAGE: STREAMS[IMAGE]}))


# --------------------------------------------------------------------------------------------------------------- a run


OPTIONS = (
    "--backbone", "jit-dual", "--backbone.time-embedding", "separate", "--adapter", "rms", "--loss", "none",
    "--guidance", "structural", "--process", "learned", "--process.rate", "20", "--process.kinetic", "0.1",
    "--process.attached", "false",
)  # fmt: skip


def prepare(folder: Path, *options: str) -> tiny.Training:
    """A run whose networks have random weights: heads start at zero, which would hide mistakes."""
    training = tiny.prepare(folder, *OPTIONS, *options)
    torch.manual_seed(0)
    for name, parameter in training.parameters.items():
        if not name.startswith("process"):
            torch.nn.init.normal_(parameter, std=0.1)
    return training


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    return prepare(tmp_path_factory.mktemp("run"))


def gradient(training: tiny.Training) -> Tensor:
    """The gradient of the curve after what has been done."""
    theta = training.parameters["process.theta"]
    assert theta.grad is not None
    found = theta.grad.clone()
    training.optimizer.zero_grad()
    return found


def test_the_curve_learns_from_the_noisy_image_and_the_embedded_times(training: tiny.Training) -> None:
    inputs, draw = tiny.batch(training)
    losses = training.objective(inputs, draw)
    expected = losses["image"] + 0.1 * losses["features"] + losses["process.kinetic"]
    torch.testing.assert_close(losses["loss"], expected)
    losses["loss"].backward()
    assert gradient(training).abs().sum() > 0


@pytest.mark.parametrize("attached", ["true", "false"])
def test_the_gradient_of_the_denoising_loss_is_that_of_a_finite_difference(tmp_path: Path, attached: str) -> None:
    training = prepare(tmp_path, "--process.attached", attached, "--guidance.drop", "0")
    theta, process = training.parameters["process.theta"], cast(Learned, training.objective.process)
    inputs, draw = tiny.batch(training)
    clock, start = draw.times[FEATURES], process.counts(draw.times)
    drawn = (start[IMAGE] + start[FEATURES]).detach() / 2

    def denoising(change: float = 0.0, k: int = 0) -> Tensor:
        """The loss of a changed curve at times of the clock that are drawn already."""
        theta.data[k] += change
        times = process._at(clock)
        counts = process.counts(times) if attached == "true" else start
        factors = {name: count / drawn for name, count in counts.items()}
        losses = training.objective(inputs, replace(draw, times=times, denoising_weights=factors))
        theta.data[k] -= change
        return losses["image"] + 0.1 * losses["features"]

    losses = training.objective(inputs, tiny.batch(training)[1])
    torch.testing.assert_close(denoising(), losses["image"] + 0.1 * losses["features"])
    (losses["image"] + 0.1 * losses["features"]).backward()
    found = gradient(training)
    for k in range(4):
        with torch.no_grad():
            difference = (denoising(0.02, k) - denoising(-0.02, k)) / 0.04
        # the difference's own error, of a network with large random weights
        assert found[k].item() == pytest.approx(difference.item(), rel=0.05, abs=2e-3)


def test_two_shares_are_as_good_as_one(training: tiny.Training) -> None:
    losses = training.objective(*tiny.batch(training))
    losses["loss"].backward()
    whole = gradient(training)
    for start in (0, 10):
        part = training.objective(*tiny.share(slice(start, start + 10), *tiny.batch(training)))
        (part["loss"] / 2).backward()
    # sums in another order
    torch.testing.assert_close(gradient(training), whole, rtol=1e-3, atol=1e-6)


def test_two_evaluations_of_a_batch_are_the_same(training: tiny.Training) -> None:
    training.objective.eval()
    one, two = (training.objective(*tiny.batch(training)) for _ in range(2))
    training.objective.train()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_accumulation_gives_the_same_curve(tmp_path: Path) -> None:
    one = tiny.train(tmp_path / "one", *OPTIONS)
    two = tiny.train(tmp_path / "two", *OPTIONS, "--train.accumulation", "2")
    start = torch.tensor(Learned.Config().shares).log()
    moved = one.parameters["process.theta"].detach() - start
    assert moved.abs().min() > 1e-3
    # Adam's first updates turn roundings of small gradients into small steps
    torch.testing.assert_close(two.parameters["process.theta"].detach() - start, moved, rtol=1e-2, atol=1e-4)


def test_a_frozen_curve_stays_as_it_is_and_is_sampled(tmp_path: Path) -> None:
    training = tiny.train(tmp_path, *OPTIONS, "--process.learn-steps", "3", "--train.ema-decays", "0.0")
    logged = [[line[f"process.share_of_power_{p}"] for p in (1, 2, 4, 8)] for line in tiny.metrics(tmp_path)]
    assert logged[0] != logged[2]
    assert logged[2] == logged[3] == logged[5]
    curve = training.averaged().process.path(10)[IMAGE]
    shares = torch.tensor(logged[-1], dtype=torch.float64)
    clock = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
    expected = (shares * clock ** torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)).sum(1)
    torch.testing.assert_close(curve, expected, rtol=0, atol=1e-6)


def test_a_resumed_run_goes_on_with_its_curve(tmp_path: Path) -> None:
    whole = tiny.train(tmp_path / "whole", *OPTIONS)
    tiny.train(tmp_path / "part", *OPTIONS, "--train.steps", "3")
    resumed = tiny.train(tmp_path / "part", *OPTIONS)
    assert torch.equal(resumed.parameters["process.theta"], whole.parameters["process.theta"])


@pytest.mark.slow
def test_two_processes_learn_the_curve_of_one(tmp_path: Path) -> None:
    done = tiny.launch(*tiny.argv(tmp_path / "two", *OPTIONS))
    assert done.returncode == 0, done.stderr
    tiny.train(tmp_path / "one", *OPTIONS)
    for line, other in zip(tiny.metrics(tmp_path / "one"), tiny.metrics(tmp_path / "two"), strict=True):
        for name in ("loss", "process.kinetic", "process.share_of_power_1", "process.share_of_power_8"):
            assert other[name] == pytest.approx(line[name], rel=1e-4)  # sums in another order, through Adam
