import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vco.randomness import RowGenerator, generator, noise, seed_of

IMAGE = {"image": (3, 5, 5)}  # 75 values: torch draws multiples of 16 in another way
FEATURES = {"features": (4, 6)}


def test_a_row_of_noise_depends_only_on_its_key_and_slot() -> None:
    together = noise(IMAGE | FEATURES, range(100, 120), 0, "noise")
    for row, slot in enumerate(range(100, 120)):
        alone = noise(IMAGE | FEATURES, [slot], 0, "noise")
        assert all(torch.equal(alone[stream][0], together[stream][row]) for stream in alone)


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 8, 8), (1, 2, 2)])
def test_adding_a_stream_does_not_change_the_noise_of_the_image(shape: tuple[int, ...]) -> None:
    image = {"image": shape}
    alone, both = noise(image, range(8), 0, "noise"), noise(image | FEATURES, range(8), 0, "noise")
    assert torch.equal(alone["image"], both["image"])


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_that_share_the_rows_draw_the_same(threads: int) -> None:
    shapes, slots = {"image": (3, 4, 4), "features": (5, 2)}, [7, 3, 11, 4, 0]
    alone, shared = (noise(shapes, slots, 0, "sampling", threads=count) for count in (1, threads))
    assert all(torch.equal(alone[stream], shared[stream]) for stream in shapes)


def test_other_keys_give_other_noise() -> None:
    keys = [(0, "noise"), (1, "noise"), (0, "sampling"), (0, "solver", 1), (0, "solver", 2)]
    rows = {tuple(noise(IMAGE, [5], *key)["image"].flatten().tolist()) for key in keys}
    assert len(rows) == len(keys)


def test_no_two_of_50000_slots_share_their_noise() -> None:
    first = noise({"image": (1, 1, 4)}, range(50_000), 0, "sampling")["image"].flatten(1)
    assert len(first.unique(dim=0)) == 50_000


def test_noise_is_standard_normal_and_streams_are_independent() -> None:
    drawn = noise(IMAGE | FEATURES, range(2000), 0, "noise")
    both = torch.cat([drawn["image"].flatten(1), drawn["features"].flatten(1)], 1)
    # 2,000 rows x 99 values: the mean has a standard error of 0.0022, the deviation one of 0.0016,
    # a correlation of two columns one of 0.022, of which the largest of 4,851 stays below five
    assert both.mean().abs() < 0.01
    assert (both.std() - 1).abs() < 0.008
    assert (torch.corrcoef(both.T) - torch.eye(99)).abs().max() < 0.12


@given(st.lists(st.tuples(st.integers(), st.text(max_size=5)), unique=True, min_size=2, max_size=30))
def test_keys_have_seeds_of_their_own(keys: list[tuple[int, str]]) -> None:
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_parts_of_a_key_do_not_run_together() -> None:
    assert len({seed_of(1, 23), seed_of(12, 3), seed_of(123), seed_of("1", 23)}) == 4


def test_a_generator_is_a_function_of_its_key() -> None:
    a, b = (torch.rand(5, generator=generator(3, "times", 7)) for _ in range(2))
    assert torch.equal(a, b)


# -------------------------------------------------------------------------------------------------------------- by rows


def rows(slots: range, *key: int | str) -> RowGenerator:
    return RowGenerator(key or (0, "draws"), slots)


def test_two_shares_of_a_batch_draw_what_the_whole_batch_draws() -> None:
    whole, shares = rows(range(40, 50)), [rows(range(40, 44)), rows(range(44, 50))]
    for draw in (lambda g: g.rand(), lambda g: g.randn(3, 2), lambda g: g.rand(75)):
        together = draw(whole)
        assert torch.equal(torch.cat([draw(share) for share in shares]), together)
        assert together.shape[0] == 10


def test_every_draw_every_row_and_every_name_has_numbers_of_its_own() -> None:
    source = rows(range(6))
    draws = [source.rand(4), source.rand(4), source.of("repa/forward").rand(4), source.of("repa/prepare").rand(4),
             rows(range(6), 1, "draws").rand(4), rows(range(6, 12)).rand(4)]  # fmt: skip
    assert len(torch.cat(draws).unique(dim=0)) == 36


def test_a_generator_of_a_name_does_not_depend_on_what_was_drawn_before() -> None:
    fresh, used = rows(range(3)), rows(range(3))
    used.randn(5)
    assert torch.equal(fresh.of("a").randn(2), used.of("a").randn(2))


def test_rows_are_uniform_in_the_unit_interval_or_standard_normal() -> None:
    uniform, normal = rows(range(2000)).rand(50), rows(range(2000)).randn(50)
    assert (uniform.dtype, normal.dtype) == (torch.float32, torch.float32)
    assert 0 <= uniform.min() < 0.001 < 0.999 < uniform.max() < 1
    # 100,000 values: standard errors of 0.0009 and 0.0032 for the means, of 0.0022 for the deviation
    assert (uniform.mean() - 0.5).abs() < 0.005
    assert normal.mean().abs() < 0.016
    assert (normal.std() - 1).abs() < 0.011
