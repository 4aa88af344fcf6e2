"""What `JiT` and `JiTDual` are told of time: one for a sample or one for each token, and where a step goes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vco.api import FEATURES, IMAGE, BackboneSetting, Condition, Streams, StreamSpec, Times
from vco_plugins.backbones.jit import JiT
from vco_plugins.backbones.jit_dual import JiTDual
from vco_plugins.layers import Block, Head, Rope2d, TimeEmbed

STREAMS = {IMAGE: StreamSpec(shape=(2, 4, 6)), FEATURES: StreamSpec(shape=(6, 5), grid=(2, 3))}
TOKENS, CLASSES = 6, 3
SETTINGS: Any = {"width": 16, "depth": 3, "heads": 2, "bottleneck": 4, "patch": 2, "context_start": 1}
KINDS: list[Any] = [(JiT, {}), (JiTDual, {}), (JiTDual, {"time_embedding": "separate"})]
every = pytest.mark.parametrize(("network", "options"), KINDS)


def tiny(
    network: Any, options: dict[str, Any], until: bool = False, trained: bool = True, context_tokens: int = 2
) -> Any:
    torch.manual_seed(0)
    config = network.Config(**SETTINGS, **options, context_tokens=context_tokens)
    backbone = network(config, BackboneSetting(streams=STREAMS, num_classes=CLASSES, until=until))
    if trained:
        for parameter in backbone.parameters():
            nn.init.normal_(parameter, std=0.3)
    return backbone


def inputs(batch: int = 4) -> Streams:
    generator = torch.Generator().manual_seed(batch)
    return {name: torch.randn(batch, *spec.shape, generator=generator) for name, spec in STREAMS.items()}


def times(*shape: int, seed: int = 0) -> Times:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name in STREAMS}


def run(backbone: Any, t: Times, until: Times | None = None) -> Streams:
    with torch.no_grad():
        return backbone(inputs(), t, Condition(labels=torch.arange(4), until=until or {})).clean


def assert_same(one: Streams, other: Streams, exactly: bool = False) -> None:
    tolerance = 0.0 if exactly else 1e-4  # sums in another order
    for name, prediction in one.items():
        torch.testing.assert_close(other[name], prediction, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------ time per token


@pytest.mark.parametrize("context_tokens", [0, 2])
@every
def test_tokens_of_equal_times_are_told_what_a_sample_of_that_time_is_told(
    network: Any, options: dict[str, Any], context_tokens: int
) -> None:
    backbone, of_samples = tiny(network, options, context_tokens=context_tokens), times(4)
    of_tokens = {name: t[:, None].expand(-1, TOKENS) for name, t in of_samples.items()}
    assert_same(run(backbone, of_samples), run(backbone, of_tokens))


def test_streams_may_differ_in_whether_their_tokens_have_times_of_their_own() -> None:
    backbone, of_samples = tiny(*KINDS[2]), times(4)
    of_tokens = {name: t[:, None].expand(-1, TOKENS) for name, t in of_samples.items()}
    for mixed in ({**of_samples, IMAGE: of_tokens[IMAGE]}, {**of_samples, FEATURES: of_tokens[FEATURES]}):
        assert_same(run(backbone, of_samples), run(backbone, mixed))


@every
def test_the_time_of_every_token_counts(network: Any, options: dict[str, Any]) -> None:
    backbone, t = tiny(network, options), times(4, TOKENS)
    before = run(backbone, t)
    for token in range(TOKENS):
        other = {name: values.clone() for name, values in t.items()}
        other[IMAGE][:, token] = 1 - other[IMAGE][:, token]
        after = run(backbone, other)
        assert all((before[name] != after[name]).flatten(1).any(1).all() for name in before)


def test_a_head_modulates_every_token_by_its_own_condition() -> None:
    torch.manual_seed(0)
    head = Head(8, 5)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    x, c = torch.randn(2, 6, 8), torch.randn(2, 2 + 6, 8)  # two in-context tokens in front
    changed = c.clone()
    changed[:, 2 + 4] += 1
    different = (head(x, c) != head(x, changed)).any(-1)
    assert different.tolist() == [[token == 4 for token in range(6)]] * 2
    changed = c.clone()
    changed[:, :2] += 1
    assert torch.equal(head(x, c), head(x, changed))


def test_a_block_tells_in_context_tokens_the_first_conditions() -> None:
    torch.manual_seed(0)
    block, rope = Block(8, 2, 4.0), Rope2d(4, (2, 3), context_tokens=2)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    nn.init.zeros_(block.attention.output.weight)  # so that tokens do not see each other
    x, c = torch.randn(2, 8, 8), torch.randn(2, 8, 8)
    changed = c.clone()
    changed[:, 1] += 1
    different = (block(x, c, rope) != block(x, changed, rope)).any(-1)
    assert different.tolist() == [[token == 1 for token in range(8)]] * 2


def test_in_context_tokens_are_told_the_mean_of_the_times() -> None:
    embed, t = TimeEmbed(8, context_tokens=2), times(3, TOKENS)[IMAGE]
    told = embed(t)
    assert told.shape == (3, 2 + TOKENS, 8)
    for row in range(2):
        torch.testing.assert_close(told[:, row], embed(t.mean(1)))
    torch.testing.assert_close(told[:, 2:], torch.stack([embed(t[:, token]) for token in range(TOKENS)], dim=1))


# --------------------------------------------------------------------------------------------------- where a step goes


@every
def test_a_network_that_is_told_starts_as_the_one_that_is_not(network: Any, options: dict[str, Any]) -> None:
    plain, told = tiny(network, options, trained=False), tiny(network, options, until=True, trained=False)
    added = told.state_dict().keys() - plain.state_dict().keys()
    assert added
    assert all(name.startswith(("gap.", "gaps.")) for name in added)
    for name, value in plain.state_dict().items():
        assert torch.equal(told.state_dict()[name], value), name
    for backbone in (plain, told):  # the head starts at zero, which would hide a difference
        for name, parameter in backbone.named_parameters():
            if not name.startswith(("gap.", "gaps.")):
                nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    assert_same(run(plain, times(4)), run(told, times(4), times(4, seed=1)), exactly=True)


@every
def test_a_step_that_goes_nowhere_needs_no_telling(network: Any, options: dict[str, Any]) -> None:
    backbone, t = tiny(network, options, until=True), times(4)
    assert_same(run(backbone, t), run(backbone, t, t), exactly=True)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_gap_counts_for_every_stream_whose_time_is_embedded(stream: str) -> None:
    t = times(4)
    later = {**t, stream: t[stream] + 0.1}
    for network, options in KINDS:
        backbone = tiny(network, options, until=True)
        moved = not torch.equal(run(backbone, t, t)[IMAGE], run(backbone, t, later)[IMAGE])
        assert moved == (stream == IMAGE or bool(options))


@every
def test_a_gap_may_differ_from_token_to_token(network: Any, options: dict[str, Any]) -> None:
    backbone, t, gap = tiny(network, options, until=True), times(4), torch.tensor([0.0, 0.1, 0.2, 0.3])
    until = {name: values + gap for name, values in t.items()}
    spread = {name: values[:, None].expand(-1, TOKENS) for name, values in until.items()}
    assert_same(run(backbone, t, until), run(backbone, t, spread))


@every
def test_a_network_that_was_not_built_for_it_does_not_look_where_a_step_goes(
    network: Any, options: dict[str, Any]
) -> None:
    backbone, t = tiny(network, options), times(4)
    assert_same(run(backbone, t), run(backbone, t, times(4, seed=1)), exactly=True)


# -------------------------------------------------------------------------------------------------- forward-mode AD


@pytest.mark.parametrize("per_token", [False, True])
@every
def test_forward_mode_derivatives_are_those_of_a_central_difference(
    network: Any, options: dict[str, Any], per_token: bool
) -> None:
    backbone = tiny(network, options, until=True).double()
    shape = (4, TOKENS) if per_token else (4,)
    noisy = {name: x.double() for name, x in inputs().items()}
    t = {name: x.double() / 2 for name, x in times(*shape).items()}
    until = {name: x + 0.3 for name, x in t.items()}
    generator = torch.Generator().manual_seed(9)

    def direction(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.randn(x.shape, generator=generator, dtype=x.dtype) for name, x in values.items()}

    def predict(noisy: Streams, t: Times, until: Times) -> Streams:
        return backbone(noisy, t, Condition(labels=torch.arange(4), until=until)).clean

    def moved(distance: float) -> Streams:
        parts = [
            {name: x + distance * along[name] for name, x in values.items()}
            for values, along in zip(start, directions, strict=True)
        ]
        with torch.no_grad():
            return predict(*parts)

    start = (noisy, t, until)
    directions = tuple(direction(values) for values in start)
    with sdpa_kernel(SDPBackend.MATH):
        derivative = torch.func.jvp(predict, start, directions)[1]
        ahead, behind = moved(1e-6), moved(-1e-6)
    for name, value in derivative.items():
        # the difference's own error: 1e-12 of the third derivative, and rounding of 1e-16 over 1e-6
        torch.testing.assert_close((ahead[name] - behind[name]) / 2e-6, value, rtol=1e-6, atol=1e-7)
