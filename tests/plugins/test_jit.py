from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vco.api import FEATURES, IMAGE, Backbone, BackboneSetting, Condition, Denoised, Streams, StreamSpec, UserError
from vco_plugins.backbones.jit import JiT
from vco_plugins.backbones.jit_dual import JiTDual
from vco_plugins.layers import unpatchify

IMAGENET = {IMAGE: StreamSpec(shape=(3, 256, 256)), FEATURES: StreamSpec(shape=(256, 768), grid=(16, 16))}
TINY = {IMAGE: StreamSpec(shape=(2, 4, 6)), FEATURES: StreamSpec(shape=(6, 5), grid=(2, 3))}
CLASSES = 3
SETTINGS: Any = {
    "width": 16,
    "depth": 3,
    "heads": 2,
    "bottleneck": 4,
    "patch": 2,
    "context_tokens": 2,
    "context_start": 1,
}
EDGE, BACK_EDGE = (IMAGE, FEATURES), (FEATURES, IMAGE)

Network = type[JiT] | type[JiTDual]
both = pytest.mark.parametrize("network", [JiT, JiTDual])


def config(network: Network, **settings: Any) -> Any:
    return network.Config(**settings)


def tiny(network: Network, trained: bool = True, **changes: Any) -> Any:
    """A tiny network for `TINY`; `trained` gives every parameter, also those that start as zero, a random value."""
    torch.manual_seed(0)
    backbone = network(config(network, **(SETTINGS | changes)), BackboneSetting(streams=TINY, num_classes=CLASSES))
    if trained:
        for parameter in backbone.parameters():
            nn.init.normal_(parameter, std=0.3)
    return backbone


def inputs(batch: int) -> Streams:
    generator = torch.Generator().manual_seed(batch)
    return {name: torch.randn(batch, *spec.shape, generator=generator) for name, spec in TINY.items()}


def run(backbone: Backbone, noisy: Streams, taps: tuple[int, ...] = (), **blocked: Any) -> Denoised:
    """One forward pass; every row has its own time and label, the null label among them."""
    batch = len(noisy[IMAGE])
    t = torch.linspace(0, 1, batch)
    edges = {{"edge": EDGE, "back_edge": BACK_EDGE}[name]: rows for name, rows in blocked.items()}
    condition = Condition(labels=torch.arange(batch) % (CLASSES + 1), blocked=edges)
    return backbone(noisy, dict.fromkeys(noisy, t), condition, taps)


@pytest.mark.parametrize(
    ("network", "size", "parameters"),
    [
        (JiTDual, "S", 65_995_392),  # the only size without a published count
        (JiTDual, "B", 260_666_112),
        (JiTDual, "L", 915_384_768),
        (JiTDual, "H", 1_901_737_856),
        (JiT, "S", 33_319_296),
        (JiT, "B", 131_123_712),  # published: 131 M
        (JiT, "L", 458_877_664),  # 459 M
        (JiT, "H", 952_514_368),  # 953 M
        (JiT, "G", 2_007_130_000),  # 2 B
    ],
)
def test_sizes_have_the_published_number_of_parameters(network: Network, size: str, parameters: int) -> None:
    with torch.device("meta"):
        backbone = network(config(network, size=size), BackboneSetting(streams=IMAGENET, num_classes=1000))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


@both
def test_an_untrained_network_predicts_zeros(network: Network) -> None:
    clean = run(tiny(network, trained=False), inputs(2)).clean
    assert set(clean) == set(network.streams)
    assert not any(prediction.any() for prediction in clean.values())


@both
def test_fixed_tables_are_float32_and_not_in_the_state_dict(network: Network) -> None:
    backbone = tiny(network)
    assert {buffer.dtype for buffer in backbone.buffers()} == {torch.float32}
    assert set(backbone.state_dict()) == {name for name, _ in backbone.named_parameters()}


@both
def test_predictions_have_the_shapes_and_dtypes_of_the_streams(network: Network) -> None:
    noisy = {name: stream.double() for name, stream in inputs(2).items()}
    for name, prediction in run(tiny(network), noisy).clean.items():
        assert prediction.shape == noisy[name].shape
        assert prediction.dtype == torch.float64


@both
def test_inputs_are_left_alone(network: Network) -> None:
    noisy = inputs(2)
    run(tiny(network), noisy)
    assert all(torch.equal(noisy[name], stream) for name, stream in inputs(2).items())


@both
@settings(deadline=None, max_examples=10)
@given(batch=st.sampled_from([2, 3, 4, 6, 16]))  # 6: the image's width and the tokens; 16: the token width
def test_a_row_does_not_depend_on_the_other_rows(network: Network, batch: int) -> None:
    backbone, noisy = tiny(network), inputs(batch)
    t, labels = torch.linspace(0, 1, batch), torch.arange(batch) % (CLASSES + 1)
    blocked = torch.arange(batch) % 2 == 0
    with torch.no_grad():
        together = backbone(noisy, dict.fromkeys(noisy, t), Condition(labels=labels, blocked={EDGE: blocked}))
        for row in range(batch):
            one = slice(row, row + 1)
            condition = Condition(labels=labels[one], blocked={EDGE: blocked[one]})
            alone = backbone({k: v[one] for k, v in noisy.items()}, dict.fromkeys(noisy, t[one]), condition)
            for name, prediction in alone.clean.items():
                # float32 matrix products of another height are summed in another order
                torch.testing.assert_close(together.clean[name][one], prediction, rtol=1e-4, atol=1e-4)


@both
def test_gradients_reach_every_parameter(network: Network) -> None:
    backbone = tiny(network)
    clean = run(backbone, inputs(4)).clean
    torch.stack([prediction.square().sum() for prediction in clean.values()]).sum().backward()
    silent = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_blocked_features_change_nothing_for_the_pixels_of_those_rows_alone() -> None:
    backbone, noisy = tiny(JiTDual), inputs(4)
    rows = torch.tensor([True, False, True, False])
    before = run(backbone, noisy, edge=rows).clean
    after = run(backbone, noisy | {FEATURES: noisy[FEATURES] + 1}, edge=rows).clean
    changed = (before[IMAGE] != after[IMAGE]).flatten(1).any(1)
    assert changed.tolist() == [False, True, False, True]


@pytest.mark.parametrize("symmetric", [False, True])
def test_features_of_blocked_rows_see_the_pixels_unless_blocked_too(symmetric: bool) -> None:
    backbone, noisy = tiny(JiTDual), inputs(4)
    rows = torch.tensor([True, False, True, False])
    blocked: Any = {"edge": rows, "back_edge": rows} if symmetric else {"edge": rows}
    before = run(backbone, noisy, **blocked).clean
    after = run(backbone, noisy | {IMAGE: noisy[IMAGE] + 1}, **blocked).clean
    changed = (before[FEATURES] != after[FEATURES]).flatten(1).any(1)
    assert changed.tolist() == ([False, True, False, True] if symmetric else [True] * 4)


def test_blocking_no_row_is_the_same_as_not_blocking() -> None:
    backbone, noisy = tiny(JiTDual), inputs(3)
    free, blocked = run(backbone, noisy).clean, run(backbone, noisy, edge=torch.zeros(3, dtype=torch.bool)).clean
    assert all(torch.equal(free[name], blocked[name]) for name in free)


@both
def test_taps_hold_the_patches_before_and_after_the_context_joins(network: Network) -> None:
    taps = run(tiny(network), inputs(2), taps=(1, 3)).taps
    assert set(taps) == {1, 3}
    for tap in taps.values():
        assert tap.tokens.shape == (2, 6, 16)
        assert tap.positions.tolist() == list(range(6))


@both
def test_the_head_turns_the_last_tap_into_the_prediction(network: Network) -> None:
    backbone = tiny(network)
    denoised = run(backbone, inputs(2), taps=(3,))
    c, _ = backbone.conditioning(torch.linspace(0, 1, 2), torch.arange(2))
    head = backbone.head if network is JiT else backbone.heads[IMAGE]
    torch.testing.assert_close(unpatchify(head(denoised.taps[3].tokens, c), (2, 3), 2), denoised.clean[IMAGE])


@both
def test_it_runs_without_in_context_tokens(network: Network) -> None:
    backbone = tiny(network, context_tokens=0)
    assert backbone.conditioning.context is None
    assert run(backbone, inputs(2)).clean[IMAGE].any()


@both
def test_predictions_under_bfloat16_autocast_are_float32_and_close(network: Network) -> None:
    backbone, noisy = tiny(network), inputs(3)
    exact = run(backbone, noisy, edge=torch.tensor([True, False, False])).clean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(backbone, noisy, edge=torch.tensor([True, False, False])).clean
    for name, prediction in rounded.items():
        assert prediction.dtype == torch.float32
        # bfloat16 has 8 significant bits: 0.4 % a rounding, about twenty in a row
        assert (prediction - exact[name]).norm() < 0.08 * exact[name].norm()


@both
def test_dropout_is_in_the_middle_half_only(network: Network) -> None:
    backbone = tiny(network, depth=8, dropout=0.5)
    dropping = [{m.p for m in block.modules() if isinstance(m, nn.Dropout)} for block in backbone.blocks]
    assert dropping == [{0.0}] * 2 + [{0.5}] * 4 + [{0.0}] * 2


def compiled_against_eager(network: Network) -> None:
    """Fails unless the compiler makes one graph of the network, and it computes the same."""
    backbone, noisy = tiny(network), inputs(3)
    rows = torch.tensor([True, False, True])
    with torch.no_grad():
        expected = run(backbone, noisy, (2,), edge=rows, back_edge=rows)
        backbone.compile(fullgraph=True)
        actual = run(backbone, noisy, (2,), edge=rows, back_edge=rows)
    # fused kernels sum in another order
    torch.testing.assert_close(actual.clean, expected.clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.taps[2].tokens, expected.taps[2].tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@both
def test_compiled_equals_eager_in_one_graph(network: Network) -> None:
    # in a process of its own: the compiler cannot trace the type checks that pytest puts around every function
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(compiled_against_eager, network).result()


@both
def test_a_patch_that_does_not_divide_the_image_is_refused(network: Network) -> None:
    with pytest.raises(UserError, match=r"--backbone\.patch 4 does not divide the image size 4x6"):
        tiny(network, patch=4)


def test_features_on_another_grid_than_the_patches_are_refused() -> None:
    with pytest.raises(UserError, match=r"features' grid \(2, 3\) is not the patches' grid \(4, 6\)"):
        tiny(JiTDual, patch=1)


def test_a_run_without_features_is_refused_by_the_dual_network() -> None:
    with pytest.raises(UserError, match="this run has only image"):
        JiTDual(JiTDual.Config(**SETTINGS), BackboneSetting(streams={IMAGE: TINY[IMAGE]}, num_classes=CLASSES))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 20}, r"width 20 must be a multiple of 4 \* heads \(48\)"),
        ({"heads": 5}, r"width 768 must be a multiple of 4 \* heads \(20\)"),
        ({"width": 30, "heads": 5}, r"width 30 must be a multiple of 4 \* heads \(20\)"),
        ({"context_start": 12}, r"context_start 12 must be below the depth \(12\)"),
        ({"depth": 2, "context_start": 2}, r"context_start 2 must be below the depth \(2\)"),
        ({"heads": 0}, "heads"),
        ({"patch": 0}, "patch"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
@both
def test_settings_that_do_not_fit_are_refused(network: Network, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(network, **changes)


def test_validators_survive_other_settings_that_are_wrong() -> None:
    with attrs.validators.disabled():
        wrong = config(JiT, size="X", width=16, heads=0, depth=-1, context_start=0)
    field = attrs.fields(JiT.Config)
    field.width.validator(wrong, field.width, 16)  # heads=0 is for the validator of heads to tell
    with pytest.raises(ValueError, match="context_start 0 must be below the depth"):
        field.context_start.validator(wrong, field.context_start, 0)


@both
def test_a_given_depth_moves_the_start_of_the_context_to_a_third(network: Network) -> None:
    assert network.Config(size="L").resolved.context_start == 8
    assert network.Config(size="L", depth=6).resolved.context_start == 2
    assert network.Config(size="L", depth=6, context_start=0).resolved.context_start == 0


def test_size_g_is_for_the_single_stream_alone() -> None:
    with pytest.raises(ValueError, match="size"):
        config(JiTDual, size="G")
