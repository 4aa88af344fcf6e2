import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vco.api import StreamSpec
from vco.randomness import generator, noise, seed_of

PIXELS = {"pixels": StreamSpec(shape=(3, 5, 5))}  # 75 values: torch draws multiples of 16 in another way
FEATURES = {"features": StreamSpec(shape=(4, 6), grid=(2, 2))}


def test_a_row_of_noise_depends_only_on_its_key_and_slot() -> None:
    together = noise(PIXELS | FEATURES, range(100, 120), 0, "noise")
    for row, slot in enumerate(range(100, 120)):
        alone = noise(PIXELS | FEATURES, [slot], 0, "noise")
        assert all(torch.equal(alone[stream][0], together[stream][row]) for stream in alone)


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 8, 8), (1, 2, 2)])
def test_adding_a_stream_does_not_change_the_noise_of_the_pixels(shape: tuple[int, ...]) -> None:
    pixels = {"pixels": StreamSpec(shape=shape)}
    alone, both = noise(pixels, range(8), 0, "noise"), noise(pixels | FEATURES, range(8), 0, "noise")
    assert torch.equal(alone["pixels"], both["pixels"])


def test_other_keys_give_other_noise() -> None:
    keys = [(0, "noise"), (1, "noise"), (0, "sampling"), (0, "solver", 1), (0, "solver", 2)]
    rows = {tuple(noise(PIXELS, [5], *key)["pixels"].flatten().tolist()) for key in keys}
    assert len(rows) == len(keys)


def test_no_two_of_50000_slots_share_their_noise() -> None:
    first = noise({"pixels": StreamSpec(shape=(1, 1, 4))}, range(50_000), 0, "sampling")["pixels"].flatten(1)
    assert len(first.unique(dim=0)) == 50_000


def test_noise_is_standard_normal_and_streams_are_independent() -> None:
    drawn = noise(PIXELS | FEATURES, range(2000), 0, "noise")
    both = torch.cat([drawn["pixels"].flatten(1), drawn["features"].flatten(1)], 1)
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
