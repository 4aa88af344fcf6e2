"""Joint laws of the streams' times."""

import pytest
import torch

from vco_plugins.processes.shared import Shared


def shared(**options: float) -> Shared:
    return Shared(Shared.Config(**options), streams=("pixels", "features"))


def test_logit_of_the_times_has_the_set_mean_and_standard_deviation() -> None:
    t = shared(mean=-0.8, std=0.5).sample(40_000, torch.Generator().manual_seed(0))["pixels"]
    # five standard errors of 40,000 draws
    assert t.logit().mean().item() == pytest.approx(-0.8, abs=5 * 0.5 / 200)
    assert t.logit().std().item() == pytest.approx(0.5, abs=5 * 0.5 / 280)


def test_all_streams_share_their_times() -> None:
    times = shared().sample(5, torch.Generator().manual_seed(0))
    assert set(times) == {"pixels", "features"}
    assert torch.equal(times["pixels"], times["features"])


def test_times_are_float32_in_the_unit_interval() -> None:
    t = shared(std=30.0).sample(1000, torch.Generator().manual_seed(0))["pixels"]
    assert t.dtype == torch.float32
    assert t.min() >= 0
    assert t.max() <= 1


def test_same_generator_gives_the_same_times() -> None:
    first, second = (shared().sample(4, torch.Generator().manual_seed(3))["pixels"] for _ in range(2))
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
    assert torch.equal(weights["features"], torch.ones(3))


def test_standard_deviation_must_be_positive() -> None:
    with pytest.raises(ValueError, match="std"):
        Shared.Config(std=0.0)
