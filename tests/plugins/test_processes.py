"""Joint laws of the streams' times."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vco.api import FEATURES, IMAGE, Process, ProcessSetting, StreamSpec, Times, UserError
from vco_plugins.processes.aligned import Aligned
from vco_plugins.processes.cascaded import Cascaded, CascadedNoised
from vco_plugins.processes.independent import Independent
from vco_plugins.processes.offset import Offset
from vco_plugins.processes.shared import Shared
from vco_plugins.processes.shifted import Shifted
from vco_plugins.times import shift

OWN_TIMES: list[Any] = [Shifted, Independent, Cascaded, CascadedNoised, Offset]
TWO = {IMAGE: StreamSpec(shape=(1, 8, 8)), FEATURES: StreamSpec(shape=(16, 4), grid=(4, 4))}
STREAMS = {**TWO, "class_token": StreamSpec(shape=(1, 4))}
DRAWS = 40_000
FIVE_ERRORS = 5 * 0.5 / math.sqrt(DRAWS)
"""Five standard errors of a share of the draws."""


def make(process: Any, **options: Any) -> Any:
    return process(process.Config(**options), ProcessSetting(streams=STREAMS))


def draws(process: Process, count: int = DRAWS) -> Times:
    return process.sample(count, torch.Generator().manual_seed(0))


def share(rows: torch.Tensor) -> float:
    return rows.float().mean().item()


def shared(**options: Any) -> Shared:
    return Shared(Shared.Config(**options), ProcessSetting(streams=TWO))


def test_logit_of_the_times_has_the_set_mean_and_standard_deviation() -> None:
    t = shared(mean=-0.8, std=0.5).sample(40_000, torch.Generator().manual_seed(0))[IMAGE]
    # five standard errors of 40,000 draws
    assert t.logit().mean().item() == pytest.approx(-0.8, abs=5 * 0.5 / 200)
    assert t.logit().std().item() == pytest.approx(0.5, abs=5 * 0.5 / 280)


def test_all_streams_share_their_times() -> None:
    times = shared().sample(5, torch.Generator().manual_seed(0))
    assert set(times) == {IMAGE, FEATURES}
    assert torch.equal(times[IMAGE], times[FEATURES])


def test_times_are_float32_in_the_unit_interval() -> None:
    t = shared(std=30.0).sample(1000, torch.Generator().manual_seed(0))[IMAGE]
    assert t.dtype == torch.float32
    assert t.min() >= 0
    assert t.max() <= 1


def test_same_generator_gives_the_same_times() -> None:
    first, second = (shared().sample(4, torch.Generator().manual_seed(3))[IMAGE] for _ in range(2))
    assert torch.equal(first, second)


def test_path_is_uniform_from_noise_to_data_in_float64() -> None:
    path = shared().path(50)
    expected = torch.arange(51, dtype=torch.float64) / 50
    for t in path.values():
        # one unit in the last place of float64
        torch.testing.assert_close(t, expected, rtol=0, atol=3e-16)
        assert (t[0], t[-1]) == (0, 1)


def test_every_sample_weighs_the_same() -> None:
    process = shared()
    weights = process.weight(process.sample(3, torch.Generator().manual_seed(0)))
    assert torch.equal(weights[FEATURES], torch.ones(3))


def test_standard_deviation_must_be_positive() -> None:
    with pytest.raises(ValueError, match="std"):
        Shared.Config(std=0.0)


# ------------------------------------------------------------------------------------------- processes with two times


@pytest.mark.parametrize("process", [Shared, *OWN_TIMES])
def test_training_times_of_all_streams_are_float32_in_the_unit_interval(process: Any) -> None:
    times = draws(make(process))
    assert set(times) == set(STREAMS)
    for t in times.values():
        assert t.shape == (DRAWS,)
        assert t.dtype == torch.float32
        assert t.min() >= 0
        assert t.max() <= 1


@pytest.mark.parametrize("process", OWN_TIMES)
def test_streams_other_than_the_image_share_their_time(process: Any) -> None:
    times, path = draws(make(process), 100), make(process).path(10)
    assert torch.equal(times[FEATURES], times["class_token"])
    assert torch.equal(path[FEATURES], path["class_token"])


@pytest.mark.parametrize("process", OWN_TIMES)
def test_draws_depend_on_the_generator_alone(process: Any) -> None:
    first, second = draws(make(process), 50), draws(make(process), 50)
    assert all(torch.equal(first[name], second[name]) for name in STREAMS)


@pytest.mark.parametrize("process", [Shared, *OWN_TIMES])
@given(steps=st.integers(2, 60), ratio=st.floats(0.05, 1.0))
def test_paths_never_fall_and_run_from_exactly_0_to_exactly_1(process: Any, steps: int, ratio: float) -> None:
    options = {"shift": "shift", "lead": "lead", "features_shift": "features_shift", "offset": "offset"}
    config = process.Config(**{name: ratio for name in options if hasattr(process.Config(), name)})
    for t in process(config, ProcessSetting(streams=STREAMS)).path(steps).values():
        assert t.dtype == torch.float64
        assert len(t) == steps + 1
        assert (t[0], t[-1]) == (0, 1)
        assert (t.diff() >= 0).all()


@pytest.mark.parametrize("process", OWN_TIMES)
def test_a_run_of_images_alone_is_refused(process: Any) -> None:
    with pytest.raises(UserError, match=r"run has only the stream 'image': .*--process shared"):
        process(process.Config(), ProcessSetting(streams={IMAGE: TWO[IMAGE]}))


@pytest.mark.parametrize(
    ("process", "option"),
    [
        (Shifted, {"shift": 0.0}),
        (Shifted, {"std": 0.0}),
        (Independent, {"lead": 0.0}),
        (Cascaded, {"features_share": 1.0}),
        (Cascaded, {"early_share": -0.1}),
        (CascadedNoised, {"noise": 1.0}),
        (Offset, {"offset": 0.0}),
    ],
)
def test_settings_outside_their_range_are_refused(process: Any, option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        process.Config(**option)


@given(t=st.floats(0, 1), factor=st.floats(0.01, 100))
def test_a_shift_multiplies_the_signal_to_noise_ratio(t: float, factor: float) -> None:
    at = torch.tensor([t], dtype=torch.float64)
    shifted = shift(at, factor)
    torch.testing.assert_close(shifted * (1 - at), factor * at * (1 - shifted))
    torch.testing.assert_close(shifted, factor * at / (1 + (factor - 1) * at))
    torch.testing.assert_close(shift(shifted, 1 / factor), at)


# -------------------------------------------------------------------------------------------------------------- shifted


def test_shifted_features_are_as_noisy_as_if_they_were_rescaled() -> None:
    rms = 0.485
    for times in (draws(make(Shifted, shift=rms), 1000), make(Shifted, shift=rms).path(20)):
        image, features = times[IMAGE][times[IMAGE] < 1], times[FEATURES][times[IMAGE] < 1]
        torch.testing.assert_close(features / (1 - features), rms * image / (1 - image))


def test_a_shifted_image_has_the_times_of_a_shared_process() -> None:
    assert torch.equal(draws(make(Shifted))[IMAGE], draws(make(Shared))[IMAGE])


# ---------------------------------------------------------------------------------------------------------- independent


def test_independent_times_are_shifted_uniform_and_uncorrelated() -> None:
    times = draws(make(Independent))
    uniform = [shift(times[name], 2.0) for name in (IMAGE, FEATURES)]
    for u in uniform:
        assert share(u < 0.25) == pytest.approx(0.25, abs=FIVE_ERRORS)
        assert share(u < 0.5) == pytest.approx(0.5, abs=FIVE_ERRORS)
    # five standard errors of a correlation
    assert torch.corrcoef(torch.stack(uniform))[0, 1].item() == pytest.approx(0, abs=5 / math.sqrt(DRAWS))


@pytest.mark.parametrize("lead", [0.25, 1.0, 9.0])
def test_independent_sampling_follows_the_lead(lead: float) -> None:
    path = make(Independent, lead=lead).path(16)
    torch.testing.assert_close(path[FEATURES], shift(path[IMAGE], lead))


def test_independent_sampling_takes_even_steps_along_the_curve() -> None:
    path = make(Independent, lead=25.0).path(50)
    lengths = path[IMAGE].diff() + path[FEATURES].diff()
    # two of the merged points, at most one multiple of 1 / 50 of each stream, lie between neighbours
    assert lengths.max() <= 3 / 50
    assert lengths.min() >= 1 / 50


# ------------------------------------------------------------------------------------------------------------- cascaded


@pytest.mark.parametrize("process", [Cascaded, CascadedNoised])
def test_cascaded_samples_count_for_the_stream_of_their_phase_alone(process: Any) -> None:
    cascaded = make(process)
    times = draws(cascaded)
    weights = cascaded.weight(times)
    of_features = weights[FEATURES] == 1
    assert torch.equal(weights[IMAGE], (~of_features).float())
    assert share(of_features) == pytest.approx(0.4, abs=FIVE_ERRORS)
    assert (times[IMAGE][of_features] == 0).all()
    assert (times[IMAGE][~of_features] > 0).all()


def test_cascaded_features_are_logit_normal_in_their_own_phase() -> None:
    times = draws(make(Cascaded))
    logits = times[FEATURES][times[IMAGE] == 0].double().logit()
    # five standard errors of the 16,000 draws of the phase
    assert logits.mean().item() == pytest.approx(-1.2, abs=5 / 126)
    assert logits.std().item() == pytest.approx(1.0, abs=5 / 178)


def test_cascaded_images_are_logit_normal_with_a_tenth_uniform_up_to_a_half() -> None:
    def below(times: Times, bound: float) -> float:
        return share(times[IMAGE][times[IMAGE] > 0] < bound)

    normal, uniform, mixed = (draws(make(Cascaded, early_share=early)) for early in (0.0, 1.0, 0.1))
    logits = normal[IMAGE][normal[IMAGE] > 0].logit()
    # five standard errors of the 24,000 draws of the phase
    assert logits.mean().item() == pytest.approx(-0.4, abs=5 * 0.8 / 155)
    assert logits.std().item() == pytest.approx(0.8, abs=5 * 0.8 / 219)
    assert below(uniform, 0.125) == pytest.approx(0.25, abs=0.016)
    assert uniform[IMAGE].max() <= 0.5
    assert below(mixed, 0.05) == pytest.approx(0.1 * 0.1 + 0.9 * below(normal, 0.05), abs=0.005)


@pytest.mark.parametrize(("process", "low"), [(Cascaded, 1.0), (CascadedNoised, 0.75)])
def test_features_that_are_given_to_the_image_are_clean_or_uniformly_noised(process: Any, low: float) -> None:
    times = draws(make(process))
    given = times[FEATURES][times[IMAGE] > 0]
    assert given.min().item() == pytest.approx(low, abs=1e-4)
    assert given.mean().item() == pytest.approx((1 + low) / 2, abs=5 * 0.25 / math.sqrt(12 * 24_000))


@pytest.mark.parametrize("steps", [50, 7, 2])
def test_cascaded_sampling_makes_the_features_and_then_the_image(steps: int) -> None:
    path = make(Cascaded).path(steps)
    first = steps // 2
    assert not path[IMAGE][: first + 1].any()
    assert (path[FEATURES][first:] == 1).all()
    torch.testing.assert_close(path[FEATURES][: first + 1], torch.linspace(0, 1, first + 1).double())
    torch.testing.assert_close(path[IMAGE][first:], torch.linspace(0, 1, steps - first + 1).double())


def test_cascaded_grid_of_the_features_is_that_of_latent_forcing() -> None:
    grid = make(Cascaded, features_shift=0.575).path(50)[FEATURES][:26]
    expected = [0, 0.0233978, 0.0476190, 0.0727081, 0.8686371, 0.9324324, 1]
    # the published digits
    assert [*grid[:4].tolist(), *grid[-3:].tolist()] == pytest.approx(expected, abs=5e-8)


def test_a_cascade_of_one_step_is_refused() -> None:
    with pytest.raises(UserError, match=r"--sample\.steps is 1: set at least 2"):
        make(Cascaded).path(1)


# --------------------------------------------------------------------------------------------------------------- offset


@pytest.mark.parametrize("offset", [0.3, 1.0])
def test_features_are_ahead_by_the_offset_wherever_both_move(offset: float) -> None:
    process = make(Offset, offset=offset)
    for times in (draws(process, 1000), process.path(50)):
        both = (times[IMAGE] > 0) & (times[FEATURES] < 1)
        ahead = (times[FEATURES] - times[IMAGE])[both]
        # float32 rounding of 1.3 - 0.3
        torch.testing.assert_close(ahead, torch.full_like(ahead, offset), rtol=0, atol=2e-7)
        assert (times[FEATURES][times[IMAGE] == 0] <= offset + 1e-6).all()


def test_offset_moves_the_streams_evenly() -> None:
    path = make(Offset, offset=0.25).path(5)
    assert path[FEATURES].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    assert path[IMAGE].tolist() == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1])


def test_features_that_are_clean_already_do_not_count() -> None:
    process = make(Offset)
    times = draws(process, 1000)
    weights = process.weight(times)
    assert 0 < share(weights[FEATURES] == 0) < 1
    assert torch.equal(weights[FEATURES] == 0, times[FEATURES] == 1)
    assert torch.equal(weights[IMAGE], torch.ones(1000))


def test_shared_times_may_be_uniform() -> None:
    t = make(Shared, law="uniform").sample(DRAWS, torch.Generator().manual_seed(0))[IMAGE]
    for bound in (0.1, 0.5, 0.9):
        assert share(t < bound) == pytest.approx(bound, abs=FIVE_ERRORS)


def test_the_mean_weight_of_an_aligned_time_is_that_of_the_samples_near_it() -> None:
    process = make(Aligned, lead=4.0)
    times, weights = process.draw(DRAWS, torch.Generator().manual_seed(0))
    torch.testing.assert_close(times[FEATURES], shift(times[IMAGE], 4.0))
    expected = process.weight(times)[FEATURES]
    for low in (0.05, 0.2, 0.5):
        near = (times[IMAGE] > low) & (times[IMAGE] < low + 0.05)
        assert near.sum() > 500
        # five standard errors of a share
        error = 2.5 / math.sqrt(int(near.sum()))
        assert weights[FEATURES][near].mean().item() == pytest.approx(expected[near].mean().item(), abs=error)
    assert share(weights[IMAGE] == 1) == pytest.approx(0.6, abs=FIVE_ERRORS)
