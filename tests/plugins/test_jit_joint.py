"""The network in which streams share a trunk, and the time embeddings of the networks with two streams."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from parity.goldens import assert_close, load_backbone, load_golden, thinned
from torch import nn

from vco.api import FEATURES, IMAGE, BackboneSetting, Condition, Denoised, Streams, StreamSpec, UserError
from vco_plugins.backbones.jit import JiT
from vco_plugins.backbones.jit_dual import JiTDual
from vco_plugins.backbones.jit_joint import JiTJoint
from vco_plugins.layers import CLASS_TOKEN

IMAGENET = {
    IMAGE: StreamSpec(shape=(3, 256, 256)),
    FEATURES: StreamSpec(shape=(256, 768), grid=(16, 16)),
    CLASS_TOKEN: StreamSpec(shape=(1, 768)),
}
TINY = {
    IMAGE: StreamSpec(shape=(2, 4, 6)),
    FEATURES: StreamSpec(shape=(6, 5), grid=(2, 3)),
    CLASS_TOKEN: StreamSpec(shape=(1, 7)),
}
CLASSES = 3
WIDTH = 16
SETTINGS: Any = {
    "width": WIDTH,
    "depth": 4,
    "heads": 2,
    "bottleneck": 4,
    "patch": 2,
    "context_tokens": 2,
    "context_start": 1,
}
RUN_I: Any = {"width": 1024, "heads": 16, "own_blocks": 6, "own_width": 768}
JOINT, MERGED = ["shared-qkv", "token-concat"], ["channel-concat", "direct-addition"]
fusions = pytest.mark.parametrize("fusion", JOINT + MERGED)
both_networks = pytest.mark.parametrize("network", [JiTDual, JiTJoint])


def streams(*names: str, of: dict[str, StreamSpec] = TINY) -> dict[str, StreamSpec]:
    return {name: of[name] for name in (IMAGE, *names)}


def tiny(specs: dict[str, StreamSpec] = TINY, trained: bool = True, network: Any = JiTJoint, **changes: Any) -> Any:
    """A tiny network for the streams; `trained` gives every parameter a random value, also those that start as zero."""
    torch.manual_seed(0)
    config = network.Config(**(SETTINGS | changes))
    backbone = network(config, BackboneSetting(streams=specs, num_classes=CLASSES))
    if trained:
        for parameter in backbone.parameters():
            nn.init.normal_(parameter, std=0.3)
    return backbone


def inputs(batch: int, specs: dict[str, StreamSpec] = TINY) -> Streams:
    generator = torch.Generator().manual_seed(batch)
    return {name: torch.randn(batch, *spec.shape, generator=generator) for name, spec in specs.items()}


def run(backbone: Any, noisy: Streams, taps: tuple[int, ...] = (), **options: Any) -> Denoised:
    """One forward pass; every row has its own label and times, and every stream too (0 to 1, 1 to 0)."""
    batch = len(noisy[IMAGE])
    t = torch.linspace(0, 1, batch)
    times = {name: t if name == IMAGE else 1 - t for name in noisy} | options.get("times", {})
    condition = Condition(labels=torch.arange(batch) % (CLASSES + 1), blocked=options.get("blocked", {}))
    with torch.set_grad_enabled(options.get("grad", False)):
        return backbone(noisy, times, condition, taps)


def changed_rows(backbone: Any, noisy: Streams, stream: str, seen_by: str, blocked: Any) -> list[bool]:
    """The rows whose prediction of one stream changes with the input of another."""
    before = run(backbone, noisy, blocked=blocked).clean[seen_by]
    after = run(backbone, noisy | {stream: noisy[stream] + 1}, blocked=blocked).clean[seen_by]
    return (before != after).flatten(1).any(1).tolist()


# --------------------------------------------------------------------------------------------------------------- fusion


@fusions
def test_an_untrained_network_predicts_zeros_for_every_stream(fusion: str) -> None:
    clean = run(tiny(trained=False, fusion=fusion), inputs(2)).clean
    assert set(clean) == set(TINY)
    assert not any(prediction.any() for prediction in clean.values())


@fusions
def test_predictions_have_the_shapes_and_dtypes_of_the_streams(fusion: str) -> None:
    noisy = {name: stream.double() for name, stream in inputs(2).items()}
    for name, prediction in run(tiny(fusion=fusion), noisy).clean.items():
        assert prediction.shape == noisy[name].shape
        assert prediction.dtype == torch.float64


@fusions
def test_inputs_are_left_alone(fusion: str) -> None:
    noisy = inputs(2)
    run(tiny(fusion=fusion), noisy)
    assert all(torch.equal(noisy[name], stream) for name, stream in inputs(2).items())


@fusions
@pytest.mark.parametrize("batch", [2, 3, 6, 7, WIDTH])  # 6: image width and tokens; 7: tokens with the class's
def test_a_row_does_not_depend_on_the_other_rows(fusion: str, batch: int) -> None:
    backbone, noisy = tiny(fusion=fusion), inputs(batch)
    t, labels = torch.linspace(0, 1, batch), torch.arange(batch) % (CLASSES + 1)
    rows = torch.arange(batch) % 2 == 0
    blocked = {(IMAGE, FEATURES): rows} if fusion in JOINT else {}
    with torch.no_grad():
        together = backbone(noisy, dict.fromkeys(noisy, t), Condition(labels=labels, blocked=blocked)).clean
        for row in range(batch):
            one = slice(row, row + 1)
            condition = Condition(labels=labels, blocked=blocked).map(lambda value, one=one: value[one])
            alone = backbone({k: v[one] for k, v in noisy.items()}, dict.fromkeys(noisy, t[one]), condition).clean
            for name, prediction in alone.items():
                # float32 matrix products of another height are summed in another order
                torch.testing.assert_close(together[name][one], prediction, rtol=1e-4, atol=1e-4)


@fusions
def test_gradients_reach_every_parameter(fusion: str) -> None:
    backbone = tiny(fusion=fusion, own_blocks=1, time_embedding="separate")
    clean = run(backbone, inputs(4), grad=True).clean
    torch.stack([prediction.square().sum() for prediction in clean.values()]).sum().backward()
    silent = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@fusions
@pytest.mark.parametrize("stream", list(TINY))
def test_every_stream_is_seen_by_every_other(fusion: str, stream: str) -> None:
    backbone, noisy = tiny(fusion=fusion), inputs(3)
    assert all(all(changed_rows(backbone, noisy, stream, seen_by, {})) for seen_by in TINY)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        # trunk of 20 blocks, two own blocks a stream: 465 M in Latent Forcing's table
        ({"fusion": "direct-addition", "size": "L", "depth": 22, "time_embedding": "separate"}, 465_407_456),
        # trunk of 6 blocks, then 6 narrower ones of each stream: 265.1 M, run i of V-Co's table 1
        ({"fusion": "token-concat", "time_embedding": "separate"} | RUN_I, 265_125_624),
        ({"fusion": "token-concat"}, 133_093_632),  # JiT-B and the feature stream's embedding and head
        ({"fusion": "shared-qkv"}, 232_316_160),  # 12 * (4 * 768^2 + 4 * 768 + 2 * 64) less than V-Co-B's
    ],
)
def test_sizes_have_the_published_number_of_parameters(options: Any, parameters: int) -> None:
    with torch.device("meta"):
        setting = BackboneSetting(streams=streams(FEATURES, of=IMAGENET), num_classes=1000)
        backbone = JiTJoint(JiTJoint.Config(**options), setting)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


@fusions
def test_merging_halves_the_tokens_of_the_trunk(fusion: str) -> None:
    backbone = tiny(streams(FEATURES), fusion=fusion, context_tokens=0)
    lengths: list[int] = []
    backbone.blocks[0].register_forward_pre_hook(lambda _, args: lengths.extend(x.shape[1] for x in args[0].values()))
    run(backbone, inputs(2, streams(FEATURES)))
    assert sum(lengths) == (6 if fusion in MERGED else 12)


@fusions
def test_taps_number_the_trunk_and_then_the_own_blocks_of_the_image(fusion: str) -> None:
    backbone = tiny(fusion=fusion, depth=5, own_blocks=2)
    denoised = run(backbone, inputs(2), taps=(1, 3, 5))
    assert (backbone.depth, set(denoised.taps)) == (5, {1, 3, 5})
    for tap in denoised.taps.values():
        assert tap.tokens.shape == (2, 6, WIDTH)
        assert tap.positions.tolist() == list(range(6))
    assert not torch.equal(denoised.taps[3].tokens, denoised.taps[5].tokens)


def test_dropout_is_in_the_middle_half_of_the_trunk_only() -> None:
    backbone = tiny(depth=9, dropout=0.5, own_blocks=1)
    dropping = [
        {m.p for m in block.modules() if isinstance(m, nn.Dropout)}
        for block in (*backbone.blocks, *backbone.own_blocks)
    ]
    assert dropping == [{0.0}] * 2 + [{0.5}] * 4 + [{0.0}] * 3


# ----------------------------------------------------------------------------------------------------------- own blocks


@fusions
def test_own_blocks_are_the_last_of_the_depth_and_two_by_default_where_streams_are_merged(fusion: str) -> None:
    backbone = tiny(fusion=fusion, depth=5)
    own = 2 if fusion in MERGED else 0
    assert (len(backbone.blocks), len(backbone.own_blocks)) == (5 - own, own)


@fusions
def test_every_stream_has_own_blocks_of_the_set_width(fusion: str) -> None:
    backbone = tiny(fusion=fusion, own_blocks=1, own_width=8)
    (blocks,) = backbone.own_blocks
    assert set(blocks) == {IMAGE, FEATURES}
    for block in blocks.values():
        assert block.attention.qkv.in_features == 8
        assert block.attention.heads == 1  # as wide as a head of the trunk
        assert block.stream.adaln.linear.in_features == WIDTH


@fusions
def test_own_blocks_of_another_width_are_not_among_the_taps(fusion: str) -> None:
    backbone = tiny(fusion=fusion, depth=5, own_blocks=2, own_width=8)
    tap = run(backbone, inputs(2), taps=(3,)).taps[3]
    assert (backbone.depth, tap.tokens.shape[-1]) == (3, WIDTH)


@fusions
@pytest.mark.parametrize("own_width", [None, 8])
def test_gradients_reach_every_parameter_of_own_blocks(fusion: str, own_width: int | None) -> None:
    backbone = tiny(fusion=fusion, own_blocks=1, own_width=own_width)
    clean = run(backbone, inputs(4), grad=True).clean
    torch.stack([prediction.square().sum() for prediction in clean.values()]).sum().backward()
    silent = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@fusions
def test_an_untrained_network_with_narrow_own_blocks_predicts_zeros(fusion: str) -> None:
    clean = run(tiny(trained=False, fusion=fusion, own_blocks=1, own_width=8), inputs(2)).clean
    assert not any(prediction.any() for prediction in clean.values())


def test_the_default_network_is_the_one_without_own_blocks() -> None:
    noisy = inputs(2)
    default, none = run(tiny(), noisy).clean, run(tiny(own_blocks=0), noisy).clean
    assert all(torch.equal(default[name], none[name]) for name in noisy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"own_blocks": -1}, "own_blocks must be at least 0"),
        ({"own_blocks": 4}, r"own_blocks \(4\) must be below the depth \(4\), which counts them too"),
        ({"own_blocks": 3}, r"own_blocks \(3\) leave a trunk of 1, .* join after 1 blocks: .*context_start below 1"),
        ({"fusion": "direct-addition", "depth": 2}, r"own_blocks \(2\) must be below the depth \(2\)"),
        ({"own_blocks": 1, "own_width": 12}, r"own_width \(12\) must be a multiple of the width of a head \(8\)"),
        ({"own_width": 8}, r"own_width \(8\) is the width of the own blocks, of which there are none"),
    ],
)
def test_own_blocks_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JiTJoint.Config(**(SETTINGS | options))


def test_without_in_context_tokens_the_trunk_may_end_before_they_would_join() -> None:
    assert len(tiny(own_blocks=3, context_tokens=0).blocks) == 1


def test_in_context_tokens_join_after_a_third_of_a_given_trunk() -> None:
    config = JiTJoint.Config(depth=9, own_blocks=3)
    assert config.trunk.context_start == 2


# ------------------------------------------------------------------------------------------------------------- blocking


@pytest.mark.parametrize("fusion", JOINT)
@pytest.mark.parametrize("stream", [FEATURES, CLASS_TOKEN])
def test_what_is_blocked_changes_nothing_for_the_pixels_of_those_rows_alone(fusion: str, stream: str) -> None:
    blocked = {(IMAGE, FEATURES): torch.tensor([True, False, True, False])}
    assert changed_rows(tiny(fusion=fusion), inputs(4), stream, IMAGE, blocked) == [False, True, False, True]


@pytest.mark.parametrize("fusion", JOINT)
@pytest.mark.parametrize("symmetric", [False, True])
def test_features_of_blocked_rows_see_the_pixels_unless_blocked_too(fusion: str, symmetric: bool) -> None:
    rows = torch.tensor([True, False, True, False])
    blocked = {(IMAGE, FEATURES): rows} | ({(FEATURES, IMAGE): rows} if symmetric else {})
    seen = changed_rows(tiny(fusion=fusion), inputs(4), IMAGE, FEATURES, blocked)
    assert seen == ([False, True, False, True] if symmetric else [True] * 4)


@fusions
def test_it_names_the_fusions_that_can_block(fusion: str) -> None:
    assert tiny(fusion=fusion).supports_blocking == (fusion in JiTJoint.how_to_block)


@pytest.mark.parametrize("fusion", MERGED)
def test_merged_streams_cannot_be_blocked_from_each_other(fusion: str) -> None:
    blocked = {(IMAGE, FEATURES): torch.tensor([True, False])}
    with pytest.raises(UserError, match=rf"fusion {fusion} merges image and features.*choose --guidance cfg"):
        run(tiny(fusion=fusion), inputs(2), blocked=blocked)


def test_the_class_token_cannot_be_blocked_on_its_own() -> None:
    with pytest.raises(UserError, match="blocks the class token with the stream it stands in"):
        run(tiny(), inputs(2), blocked={(IMAGE, CLASS_TOKEN): torch.tensor([True, False])})


# ---------------------------------------------------------------------------------------------------------- class token


def test_a_class_token_adds_its_way_in_and_out_to_the_plain_transformer() -> None:
    with torch.device("meta"):
        plain = JiT(JiT.Config(), BackboneSetting(streams=IMAGENET, num_classes=1000))
        setting = BackboneSetting(streams=streams(CLASS_TOKEN, of=IMAGENET), num_classes=1000)
        entangled = JiTJoint(JiTJoint.Config(), setting)
    new = {name: p.numel() for name, p in entangled.named_parameters() if name.startswith("class_token.")}
    assert sum(new.values()) == 2 * (768 * 768 + 768) + 2 * 768  # two linear layers and a LayerNorm
    old, same = (sum(p.numel() for p in network.parameters()) for network in (plain, entangled))
    assert same == old + sum(new.values())


def test_the_class_token_has_no_position() -> None:
    specs = streams(CLASS_TOKEN)
    backbone, noisy = tiny(specs), inputs(2, specs)
    before = run(backbone, noisy).clean
    backbone.positions += 1
    first: list[torch.Tensor] = []
    backbone.blocks[0].register_forward_pre_hook(lambda _, args: first.append(args[0][IMAGE][:, 0]))
    after = run(backbone, noisy).clean
    assert torch.equal(first[0], backbone.class_token.embed(noisy[CLASS_TOKEN])[:, 0])
    assert not torch.equal(before[IMAGE], after[IMAGE])


def test_the_class_token_is_predicted_after_the_final_norm_of_its_stream() -> None:
    specs = streams(CLASS_TOKEN)
    backbone, noisy = tiny(specs), inputs(2, specs)
    before = run(backbone, noisy).clean[CLASS_TOKEN]
    with torch.no_grad():
        backbone.heads[IMAGE].adaln.linear.bias.zero_()
    assert not torch.equal(before, run(backbone, noisy).clean[CLASS_TOKEN])


# ----------------------------------------------------------------------------------------------------------------- time


@both_networks
def test_a_shared_time_embedding_is_told_the_time_of_the_pixels_alone(network: Any) -> None:
    backbone, noisy = tiny(streams(FEATURES), network=network), inputs(2, streams(FEATURES))
    one, other = (run(backbone, noisy, times={FEATURES: torch.full((2,), t)}).clean for t in (0.2, 0.9))
    assert all(torch.equal(one[name], other[name]) for name in one)


@both_networks
@pytest.mark.parametrize("stream", [IMAGE, FEATURES])
def test_a_separate_time_embedding_is_told_every_time(network: Any, stream: str) -> None:
    backbone = tiny(streams(FEATURES), network=network, time_embedding="separate")
    noisy = inputs(2, streams(FEATURES))
    one, other = (run(backbone, noisy, times={stream: torch.full((2,), t)}).clean for t in (0.2, 0.9))
    assert not any(torch.equal(one[name], other[name]) for name in one)


@fusions
def test_equal_times_of_all_tokens_are_the_time_of_the_sample(fusion: str) -> None:
    specs = streams(FEATURES)
    backbone = tiny(specs, fusion=fusion, time_embedding="separate", own_blocks=1, own_width=8)
    noisy = inputs(2, specs)
    t = torch.linspace(0, 1, 2)
    whole = run(backbone, noisy, times={FEATURES: t}).clean
    per_token = run(backbone, noisy, times={name: t[:, None].expand(2, 6) for name in noisy}).clean
    for name, prediction in whole.items():
        # float32 matrix products of another shape are summed in another order
        torch.testing.assert_close(per_token[name], prediction, rtol=1e-4, atol=1e-4)


@fusions
def test_the_time_of_a_token_is_told(fusion: str) -> None:
    specs = streams(FEATURES)
    backbone, noisy = tiny(specs, fusion=fusion), inputs(2, specs)
    t = torch.full((2, 6), 0.5)
    later = t.clone()
    later[1, 3] = 0.9
    one, other = (run(backbone, noisy, times={IMAGE: times}).clean[IMAGE] for times in (t, later))
    assert (one != other).flatten(1).any(1).tolist() == [False, True]


def test_times_per_token_beside_a_class_token_are_refused() -> None:
    with pytest.raises(UserError, match="no times per token beside a class token"):
        run(tiny(), inputs(2), times={IMAGE: torch.full((2, 6), 0.5)})


def test_separate_time_embeddings_are_one_for_each_stream() -> None:
    assert set(tiny(time_embedding="separate").other_times) == {FEATURES, CLASS_TOKEN}


@pytest.mark.parametrize("name", ["jit_dual_forward", "jit_token_concat_forward"])
def test_a_second_time_embedding_that_is_silent_leaves_the_published_prediction(name: str) -> None:
    golden = load_golden(name)
    shared: Any = load_backbone(golden)
    t = golden.inputs["t"]
    noisy = {IMAGE: golden.input("x", len(t)), FEATURES: golden.input("z", len(t))}
    specs = {
        IMAGE: StreamSpec(shape=tuple(noisy[IMAGE].shape[1:])),
        FEATURES: StreamSpec(shape=tuple(noisy[FEATURES].shape[1:]), grid=shared.grid),
    }
    given = {field: getattr(shared.config, field) for field in SETTINGS}
    classes = len(shared.conditioning.label.weight) - 1
    network = type(shared)
    config = network.Config(**given, time_embedding="separate")
    separate = network(config, BackboneSetting(streams=specs, num_classes=classes))
    new = separate.load_state_dict(shared.state_dict(), strict=False).missing_keys
    for parameter_name in new:
        nn.init.zeros_(separate.get_parameter(parameter_name))
    with torch.no_grad():
        clean = thinned(separate(noisy, {IMAGE: t, FEATURES: t}, Condition(labels=golden.inputs["y"])).clean)
    assert len(new) == 4
    assert_close(clean[IMAGE], golden.outputs["full.pixel"])


# -------------------------------------------------------------------------------------------------- precision, compiler


@fusions
def test_predictions_under_bfloat16_autocast_are_float32_and_close(fusion: str) -> None:
    backbone, noisy = tiny(fusion=fusion), inputs(3)
    exact = run(backbone, noisy).clean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(backbone, noisy).clean
    for name, prediction in rounded.items():
        assert prediction.dtype == torch.float32
        # bfloat16 has 8 significant bits: 0.4 % a rounding, about thirty in a row
        assert (prediction - exact[name]).norm() < 0.12 * exact[name].norm()


def compiled_against_eager(fusion: str) -> None:
    """Fails unless the compiler makes one graph of the network, and it computes the same."""
    backbone, noisy = tiny(fusion=fusion, time_embedding="separate"), inputs(3)
    rows = torch.tensor([True, False, True])
    blocked = {(IMAGE, FEATURES): rows} if fusion in JOINT else {}
    expected = run(backbone, noisy, (2,), blocked=blocked)
    backbone.compile(fullgraph=True)
    actual = run(backbone, noisy, (2,), blocked=blocked)
    # fused kernels sum in another order
    torch.testing.assert_close(actual.clean, expected.clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.taps[2].tokens, expected.taps[2].tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@fusions
def test_compiled_equals_eager_in_one_graph(fusion: str) -> None:
    # in a process of its own: the compiler cannot trace the type checks that pytest puts around every function
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(compiled_against_eager, fusion).result()


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("fusion", ["shared-qkv", *MERGED])
def test_a_fusion_of_pixels_and_features_needs_features(fusion: str) -> None:
    with pytest.raises(UserError, match=rf"fusion {fusion} joins image and features.*only image, class_token"):
        tiny(streams(CLASS_TOKEN), fusion=fusion)


def test_the_image_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"this run has only image: .*--backbone jit for the image"):
        tiny(streams())


def test_features_on_another_grid_than_the_patches_are_refused() -> None:
    with pytest.raises(UserError, match=r"features' grid \(2, 3\) is not the patches' grid \(4, 6\)"):
        tiny(patch=1)


def test_two_class_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="the adapter makes 2"):
        tiny(streams(FEATURES) | {CLASS_TOKEN: StreamSpec(shape=(2, 7))})


@pytest.mark.parametrize("option", [{"fusion": "sum"}, {"time_embedding": "none"}])
def test_settings_that_do_not_fit_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        JiTJoint.Config(**option)
