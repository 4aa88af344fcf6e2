import pytest
import torch
from torch import nn

from vco.training.ema import EMA


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@torch.no_grad()
def change(network: nn.Module, step: int) -> None:
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))


@pytest.mark.parametrize("steps", [1, 10])
def test_averages_have_the_closed_form(steps: int) -> None:
    network = small_network()
    decays = (0.9, 0.5)
    history = [network[0].weight.detach().clone()]  # pyright: ignore[reportIndexIssue]
    ema = EMA(network, decays)
    for step in range(steps):
        change(network, step)
        history.append(network[0].weight.detach().clone())  # pyright: ignore[reportIndexIssue]
        ema.update()
    for decay, average in zip(decays, ema.averages, strict=True):
        later = ((1 - decay) * decay ** (steps - k) * history[k] for k in range(1, steps + 1))
        expected = decay**steps * history[0] + sum(later)
        # ten roundings of values around 1 in float32, each at most 6e-8
        torch.testing.assert_close(average["0.weight"], expected, atol=1e-6, rtol=0)


def test_floating_buffers_are_averaged_and_counters_copied() -> None:
    network = small_network().train()
    ema = EMA(network, (0.75,))
    network(torch.randn(8, 3) + 5)
    ema.update()
    now, average = network.state_dict(), ema.averages[0]
    torch.testing.assert_close(average["1.running_mean"], 0.25 * now["1.running_mean"])
    assert average["1.num_batches_tracked"] == 1


def test_raw_weights_are_untouched_and_share_no_memory_with_the_averages() -> None:
    network = small_network()
    ema = EMA(network, (0.9, 0.99))
    change(network, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ema.update()
    ema.averages[0]["0.weight"].zero_()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert ema.averages[1]["0.weight"].abs().sum() > 0


def test_at_the_start_the_average_is_the_model() -> None:
    network = small_network()
    ema = EMA(network, (0.9,))
    assert all(torch.equal(value, ema.averages[0][name]) for name, value in network.state_dict().items())


def test_without_decays_there_is_nothing_to_do() -> None:
    ema = EMA(small_network(), ())
    ema.update()
    assert ema.averages == []
