"""The linear path between noise and data, and the guidance of its velocities."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vco.flow import clean as clean_of
from vco.flow import corrupt, guided, in_interval, spread, velocity

sizes = st.integers(1, 5)


def pair(batch: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 10 + width)
    clean, noise = torch.randn(2, batch, 3, width, generator=generator)
    return clean, noise


@settings(deadline=None)  # the first call takes long
@given(batch=sizes, width=sizes)
@example(batch=4, width=4)
def test_every_row_is_corrupted_at_its_own_time(batch: int, width: int) -> None:
    clean, noise = pair(batch, width)
    t = torch.linspace(0, 1, batch)
    noisy = corrupt(clean, noise, t, noise_scale=2.0)
    for row in range(batch):
        expected = t[row] * clean[row] + (1 - t[row]) * 2.0 * noise[row]
        torch.testing.assert_close(noisy[row], expected)


@settings(deadline=None)  # the first call takes long
@given(batch=sizes, width=sizes)
@example(batch=4, width=4)
def test_velocity_of_the_true_clean_sample_is_clean_minus_noise(batch: int, width: int) -> None:
    clean, noise = pair(batch, width)
    t = torch.linspace(0, 0.9, batch)
    # dividing by 1 - t >= 0.1 multiplies the rounding of x_t by at most ten
    torch.testing.assert_close(velocity(clean, corrupt(clean, noise, t), t), clean - noise, rtol=1e-5, atol=1e-5)


def test_path_ends_exactly_in_scaled_noise_and_in_data() -> None:
    clean, noise = pair(2, 3)
    noisy = corrupt(clean, noise, torch.tensor([0.0, 1.0]), noise_scale=2.0)
    assert torch.equal(noisy[0], 2.0 * noise[0])
    assert torch.equal(noisy[1], clean[1])


@pytest.mark.parametrize("t", [0.95, 0.99, 1.0])
def test_velocity_divides_by_no_less_than_a_twentieth(t: float) -> None:
    clean, noisy = pair(2, 3)
    torch.testing.assert_close(velocity(clean, noisy, torch.full((2,), t)), (clean - noisy) / 0.05)


def test_corrupt_follows_the_dtype_of_the_clean_sample() -> None:
    clean, noise = pair(2, 3)
    assert corrupt(clean.bfloat16(), noise.bfloat16(), torch.tensor([0.2, 0.7])).dtype == torch.bfloat16


def test_velocity_of_bfloat16_samples_is_computed_in_float32() -> None:
    clean, noisy = (x.bfloat16() for x in pair(2, 3))
    t = torch.tensor([0.2, 0.7])
    assert torch.equal(velocity(clean, noisy, t), velocity(clean.float(), noisy.float(), t))


def test_guidance_scale_one_is_the_conditional_velocity_to_the_bit() -> None:
    conditional, null = pair(2, 3)
    assert torch.equal(guided(conditional, null, 1.0), conditional)


def test_guidance_scale_three_goes_three_times_as_far_from_the_null_velocity() -> None:
    assert guided(torch.tensor([2.0]), torch.tensor([1.0]), 3.0).item() == 4.0


@pytest.mark.parametrize(
    ("t", "inside"), [(0.1, False), (0.1001, True), (0.7999, True), (0.8, False), (0.0, False), (1.0, False)]
)
def test_interval_excludes_its_bounds(t: float, inside: bool) -> None:
    assert in_interval(t, 0.1, 0.8) is inside


@pytest.mark.parametrize("steps", [10, 30, 50, 100, 250])
def test_grid_points_are_compared_as_the_numbers_they_stand_for(steps: int) -> None:
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
    inside = [k for k, t in enumerate(grid) if in_interval(t, 0.1, 0.9)]
    assert inside == list(range(steps // 10 + 1, steps * 9 // 10))


@pytest.mark.parametrize("bound", [0.1, 0.3, 0.9])
def test_a_time_rounded_to_float32_or_by_float64_arithmetic_still_counts_as_the_bound(bound: float) -> None:
    for t in (torch.tensor(bound).item(), math.nextafter(bound, 0), math.nextafter(bound, 1)):
        assert not in_interval(t, bound, 1.0)
        assert not in_interval(t, 0.0, bound)


def test_interval_from_zero_includes_zero() -> None:
    assert in_interval(0.0, 0.0, 1.0)


# ------------------------------------------------------------------------------------------ from velocity to clean data


@settings(deadline=None)  # the first call takes long
@given(batch=sizes, width=sizes)
@example(batch=4, width=4)
def test_the_true_velocity_leads_to_the_clean_sample(batch: int, width: int) -> None:
    clean, noise = pair(batch, width)
    t = torch.linspace(0, 1, batch)
    torch.testing.assert_close(clean_of(clean - noise, corrupt(clean, noise, t), t), clean, rtol=1e-5, atol=1e-5)


def test_the_way_from_a_velocity_to_a_clean_sample_is_as_long_as_the_time_that_is_left() -> None:
    noisy, v = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 4.0)
    found = clean_of(v, noisy, torch.tensor([0.25, 1.0]))
    assert found.flatten(1).unique(dim=1).flatten().tolist() == [4.0, 1.0]  # 1 + 0.75 * 4, and 1 + 0 * 4


# ------------------------------------------------------------------------------------------------------ times of tokens


def test_each_token_is_corrupted_at_its_own_time() -> None:
    clean, noise = torch.ones(1, 3, 2), torch.full((1, 3, 2), -1.0)
    t = torch.tensor([[0.0, 0.25, 1.0]])
    noisy = corrupt(clean, noise, t, noise_scale=2.0)
    # t * 1 + (1 - t) * 2 * -1
    assert noisy[0, :, 0].tolist() == noisy[0, :, 1].tolist() == [-2.0, -1.25, 1.0]
    # (clean - noisy) / max(1 - t, 0.05)
    assert velocity(clean, noisy, t)[0, :, 0].tolist() == [3.0, 3.0, 0.0]


def test_each_patch_of_an_image_is_corrupted_at_its_own_time() -> None:
    clean, noise = torch.ones(1, 1, 4, 6), torch.zeros(1, 1, 4, 6)
    t = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]])  # patches of 2 x 2, two rows of three, row by row
    expected = torch.tensor([
        [0.0, 0.0, 0.1, 0.1, 0.2, 0.2],
        [0.0, 0.0, 0.1, 0.1, 0.2, 0.2],
        [0.3, 0.3, 0.4, 0.4, 0.5, 0.5],
        [0.3, 0.3, 0.4, 0.4, 0.5, 0.5],
    ])  # fmt: skip
    assert torch.equal(corrupt(clean, noise, t)[0, 0], expected)
    way_back = velocity(clean, corrupt(clean, noise, t), t)
    torch.testing.assert_close(way_back, torch.ones(1, 1, 4, 6))
    torch.testing.assert_close(clean_of(way_back, corrupt(clean, noise, t), t), clean)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 16, 3)])
def test_equal_times_of_all_tokens_are_the_time_of_the_sample(shape: tuple[int, ...]) -> None:
    clean, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.3, 0.8])
    each = t[:, None].expand(2, 16)
    assert torch.equal(corrupt(clean, noise, each), corrupt(clean, noise, t))
    assert torch.equal(velocity(clean, noise, each), velocity(clean, noise, t))
    assert torch.equal(clean_of(clean, noise, each), clean_of(clean, noise, t))


@pytest.mark.parametrize(
    ("shape", "tokens"), [((2, 5, 3), 4), ((2, 3, 4, 4), 5), ((2, 3, 4, 6), 48), ((2, 3, 6, 4), 3)]
)
def test_times_that_are_not_those_of_the_tokens_are_refused(shape: tuple[int, ...], tokens: int) -> None:
    with pytest.raises(ValueError, match=rf"{tokens} times a sample do not fit a stream of shape"):
        spread(torch.zeros(2, tokens), torch.zeros(shape))
