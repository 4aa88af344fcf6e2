import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vco.api import FEATURES, IMAGE
from vco_plugins.layers import (
    AdaLN,
    Attention,
    Conditioning,
    Head,
    PatchEmbed,
    RMSNorm,
    Rope2d,
    SwiGLU,
    TimeEmbed,
    TokenEmbed,
    joint_attention,
    sincos_2d,
    unpatchify,
)
from vco_plugins.layers.attention import attention_chosen_by_row, attention_with_masked_keys

EDGE, BACK_EDGE = (IMAGE, FEATURES), (FEATURES, IMAGE)
sides = st.integers(1, 4)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_rms_norm_computes_in_float32_and_casts_back() -> None:
    norm = RMSNorm(64)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    torch.testing.assert_close(norm(x), exact.bfloat16(), rtol=2**-8, atol=0)  # a single rounding to bfloat16


def test_position_table_tells_columns_in_its_first_half_and_rows_in_its_second() -> None:
    table = sincos_2d((2, 3), 8)
    for row in range(2):
        for column in range(3):
            expected = [
                wave(position * omega)
                for position in (column, row)
                for wave in (math.sin, math.cos)
                for omega in (1.0, 0.01)
            ]
            torch.testing.assert_close(table[3 * row + column], torch.tensor(expected))


@given(rows=sides, columns=sides, patch=sides, channels=sides, batch=sides)
def test_unpatchify_undoes_cutting_an_image_into_row_major_patches(
    rows: int, columns: int, patch: int, channels: int, batch: int
) -> None:
    image = torch.randn(batch, channels, rows * patch, columns * patch)
    patches = [
        image[:, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].permute(0, 2, 3, 1).flatten(1)
        for r in range(rows)
        for c in range(columns)
    ]
    assert torch.equal(unpatchify(torch.stack(patches, dim=1), (rows, columns), patch), image)


def test_a_patch_embedding_reads_patches_in_row_major_order() -> None:
    embed = PatchEmbed(channels=1, patch=2, bottleneck=3, width=4)
    image = torch.zeros(1, 1, 4, 6)
    image[:, :, 2:, 2:4] = 1  # row 1, column 1
    tokens = embed(image)[0]
    different = [i for i, token in enumerate(tokens) if not torch.equal(token, embed.expand.bias)]
    assert different == [4]


def test_rotary_scores_depend_only_on_the_distance_along_each_axis() -> None:
    rope = Rope2d(head_width=16, grid=(4, 5), context_tokens=0)
    q, k = torch.randn(2, 16)
    queries, keys = (rope(x.expand(1, 1, 20, 16))[0, 0].unflatten(0, (4, 5)) for x in (q, k))
    first = queries[0, 1] @ keys[1, 3]
    torch.testing.assert_close(queries[2, 2] @ keys[3, 4], first)
    assert not torch.isclose(queries[0, 1] @ keys[2, 2], first)  # the same distances with the axes exchanged


def test_rotary_pairs_are_neighbours_and_rows_come_first() -> None:
    rope = Rope2d(head_width=4, grid=(2, 2), context_tokens=0)
    rotated = rope(torch.tensor([1.0, 0, 1, 0]).expand(1, 1, 4, 4))[0, 0]
    cos, sin = math.cos(1), math.sin(1)
    expected = torch.tensor([[1, 0, 1, 0], [1, 0, cos, sin], [cos, sin, 1, 0], [cos, sin, cos, sin]])
    torch.testing.assert_close(rotated, expected)


def test_in_context_tokens_are_not_rotated_and_do_not_shift_the_grid() -> None:
    rope = Rope2d(head_width=8, grid=(3, 2), context_tokens=5)
    x = torch.randn(2, 3, 11, 8)
    rotated = rope(x)
    assert torch.equal(rotated[:, :, :5], x[:, :, :5])
    torch.testing.assert_close(rotated[:, :, 5:], rope(x[:, :, 5:]), rtol=1e-6, atol=1e-6)  # up to rounding


def test_swiglu_has_two_thirds_of_the_hidden_width() -> None:
    assert SwiGLU(32, 4.0).output.in_features == 85  # int(128 * 2 / 3)


def test_time_embedding_gets_cosines_before_sines_in_float32_under_autocast() -> None:
    embed = TimeEmbed(8)
    seen: list[Tensor] = []
    embed.input.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    t = torch.tensor([0.0, 0.3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embed(t)
    angles = [0.3 * 10_000 ** (-k / 128) for k in range(128)]
    expected = torch.tensor([[1.0] * 128 + [0.0] * 128, [*map(math.cos, angles), *map(math.sin, angles)]])
    torch.testing.assert_close(seen[0], expected)


def test_in_context_tokens_are_the_label_plus_a_position() -> None:
    conditioning = Conditioning(width=8, num_classes=3, context_tokens=2)
    c, context = conditioning(torch.tensor([0.5]), torch.tensor([3]))
    label = conditioning.label.weight[3]
    assert conditioning.context is not None
    torch.testing.assert_close(context[0], conditioning.context + label)
    torch.testing.assert_close(c[0], conditioning.time(torch.tensor([0.5]))[0] + label)


@pytest.mark.parametrize("way", [joint_attention, attention_with_masked_keys, attention_chosen_by_row])
@pytest.mark.parametrize("edges", [[], [EDGE], [BACK_EDGE], [EDGE, BACK_EDGE]])
def test_joint_attention_equals_dense_masked_softmax(edges: list[tuple[str, str]], way: Any) -> None:
    lengths = {IMAGE: 3, FEATURES: 4}
    streams = _streams(lengths)
    rows = torch.tensor([True, False])
    owner = [name for name, n in lengths.items() for _ in range(n)]
    hidden = torch.tensor([[(query, key) in edges for key in owner] for query in owner])
    q, k, v = (torch.cat([streams[name][part] for name in lengths], dim=2) for part in range(3))
    scores = (q @ k.mT / 2).masked_fill(hidden & rows[:, None, None, None], -math.inf)
    expected = scores.softmax(-1) @ v
    attended = way(streams, dict.fromkeys(edges, rows))
    torch.testing.assert_close(torch.cat([attended[name] for name in lengths], dim=2), expected)


@pytest.mark.parametrize("way", [attention_with_masked_keys, attention_chosen_by_row])
def test_no_gradient_passes_a_blocked_edge(way: Any) -> None:
    streams = _streams({IMAGE: 3, FEATURES: 4})
    way(streams, {EDGE: torch.tensor([True, False])})[IMAGE].sum().backward()
    _, keys, values = streams[FEATURES]
    for read in (keys, values):
        assert [bool(gradient.any()) for gradient in read.grad] == [False, True]


def test_a_mask_adds_no_attention() -> None:
    streams = _streams({IMAGE: 3, FEATURES: 4})
    with _Attentions() as counted:
        attention_with_masked_keys(streams, {EDGE: torch.tensor([True, False])})
    queries_and_keys = [(q.shape[2], k.shape[2]) for q, k in counted.seen]
    assert queries_and_keys == [(3, 7), (4, 7)]  # each query sees each key once


class _Attentions(TorchFunctionMode):
    """Notes queries and keys of every attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.seen.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def _streams(lengths: dict[str, int]) -> Any:
    """Queries, keys and values of two samples with two heads."""
    return {
        name: tuple(torch.randn(2, 2, n, 4, dtype=torch.float64).requires_grad_() for _ in range(3))
        for name, n in lengths.items()
    }


def test_linear_layers_start_xavier_uniform_with_zero_bias() -> None:
    qkv = Attention(96, 2).qkv
    bound = math.sqrt(6 / (96 + 288))
    assert 0.98 * bound < qkv.weight.abs().max() <= bound  # 27,648 draws come close to the bound
    assert not qkv.bias.any()


def test_patch_convolutions_start_xavier_uniform_on_the_flattened_kernel() -> None:
    reduce = PatchEmbed(channels=3, patch=8, bottleneck=32, width=16).reduce
    bound = math.sqrt(6 / (3 * 64 + 32))
    assert 0.98 * bound < reduce.weight.abs().max() <= bound


def test_feature_embeddings_start_with_the_frameworks_default() -> None:
    embed = TokenEmbed(features=96, bottleneck=48, width=64)
    assert 0.98 / math.sqrt(96) < embed.reduce.weight.abs().max() <= 1 / math.sqrt(96)
    assert embed.expand.bias.any()


def test_label_time_and_context_tables_start_normal_with_deviation_two_hundredths() -> None:
    conditioning = Conditioning(width=64, num_classes=99, context_tokens=50)
    weights = [conditioning.label.weight, conditioning.time.input.weight, conditioning.time.output.weight]
    assert conditioning.context is not None
    for weight in [*weights, conditioning.context]:
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)  # 3,200 draws: the estimate's own error is 1.3 %


def test_modulation_and_heads_start_as_zero() -> None:
    assert not any(parameter.any() for parameter in AdaLN(8, 6).parameters())
    head = Head(8, 5)
    assert not head.linear.weight.any()
    assert not head.linear.bias.any()


def test_what_is_compiled_is_the_same_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    rope = Rope2d(head_width=16, grid=(4, 4), context_tokens=2)
    x = torch.randn(2, 3, 18, 16, requires_grad=True)
    found: list[Tensor] = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda answer=compiling: answer)
        rotated = rope(x)
        (gradient,) = torch.autograd.grad((rotated**3).sum(), x)
        found += [rotated, gradient]
    torch.testing.assert_close(found[:2], found[2:], rtol=1e-6, atol=1e-6)
