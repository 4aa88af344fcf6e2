"""REPA and iREPA: golden vectors, and what their definitions imply."""

from typing import Any

import attrs
import pytest
import steps
import torch
import torch.nn.functional as F
from torch import Tensor

from vco.api import FEATURES, IMAGE, Features, FeatureSource, FeatureSpec, LossSetting, Step, StreamSpec, Tap, UserError
from vco_plugins.alignment import AlignmentLoss, negative_cosine
from vco_plugins.losses.irepa import IREPA
from vco_plugins.losses.repa import REPA
from vco_plugins.spatial import spatial_norm

GRID = (2, 3)
SPEC = FeatureSpec(tokens=(6, 5), grid=GRID)
both = pytest.mark.parametrize("kind", [REPA, IREPA])


class Given(FeatureSource):
    """An encoder whose tokens are known beforehand."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens
        self.spec = SPEC

    def load(self) -> None: ...

    def forward(self, images: Tensor) -> Features:
        return Features(tokens=self.tokens, grid=GRID, pooled=self.tokens.mean(1))


def setting(width: int = 4, grid: tuple[int, int] = GRID, spec: FeatureSpec = SPEC) -> LossSetting:
    streams = {IMAGE: StreamSpec(shape=(1, 2, 3)), FEATURES: StreamSpec(shape=(6, 3), grid=GRID)}
    features = {"given": spec, "other": FeatureSpec(tokens=(6, 9), grid=GRID)}
    return LossSetting(width=width, grid=grid, depth=3, features=features, streams=streams, num_classes=10)


def make(kind: Any, **options: Any) -> AlignmentLoss:
    options = ({"hidden": 7} if kind is REPA else {}) | options
    torch.manual_seed(0)
    return kind(kind.Config(block=2, **options), setting())


def make_step(tokens: Tensor, target: Tensor, positions: Tensor | None = None, **changes: Any) -> Step:
    images = torch.zeros(len(tokens), 1, 2, 3)
    labels = torch.zeros(len(tokens), dtype=torch.int64)
    tap = Tap(tokens=tokens, positions=torch.arange(tokens.shape[1]) if positions is None else positions)
    sources = changes.pop("sources", {"given": Given(target)})
    return steps.make_step(images, images, labels, sources, {2: tap}, **changes)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def golden() -> tuple[Tensor, Tensor]:
    """The vectors h and y of the mechanisms' specification, b < 2, i < 4, d < 3."""
    b, i, d = torch.meshgrid(torch.arange(2), torch.arange(4), torch.arange(3), indexing="ij")
    return torch.sin(0.7 * b + 1.3 * i + 2.1 * d + 0.1), torch.cos(0.5 * b + 0.9 * i + 1.7 * d + 0.3)


# ------------------------------------------------------------------------------------------------------ golden vectors


def test_repa_golden_vector() -> None:
    h, y = golden()
    assert negative_cosine(h, y).mean().item() == pytest.approx(-0.69390303, abs=1e-6)  # float32


@pytest.mark.parametrize(
    ("alpha", "first", "loss"),
    [
        (1.0, (1.14889383, 0.30924696, -1.24030232), -0.74720055),
        (0.6, (1.12853420, -0.20600438, -1.15130270), -0.73804861),
        (0.8, (1.13871408, 0.05162125, -1.19580245), -0.74847269),
    ],
)
def test_irepa_golden_vectors(alpha: float, first: tuple[float, ...], loss: float) -> None:
    h, y = golden()
    target = spatial_norm(y, alpha)
    torch.testing.assert_close(target[0, 0], torch.tensor(first), rtol=0, atol=1e-5)  # float32
    assert negative_cosine(h, target).mean().item() == pytest.approx(loss, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ projector


def test_repa_projects_through_an_mlp_with_silu_between_its_layers() -> None:
    loss, tokens, target = make(REPA), random(3, 6, 4), random(3, 6, 5, seed=1)
    assert isinstance(loss, REPA)
    first, second, third = (layer for layer in loss.projector if isinstance(layer, torch.nn.Linear))
    assert (first.weight.shape, second.weight.shape, third.weight.shape) == ((7, 4), (7, 7), (5, 7))
    hidden = third(F.silu(second(F.silu(first(tokens)))))
    expected = -F.cosine_similarity(hidden, target, dim=-1).mean(1)
    torch.testing.assert_close(loss(make_step(tokens, target))["repa"], expected)


def test_repa_of_one_layer_is_linear() -> None:
    loss = make(REPA, layers=1)
    assert isinstance(loss, REPA)
    assert [type(layer) for layer in loss.projector] == [torch.nn.Linear]


def test_default_projector_has_the_published_size() -> None:
    loss = REPA(REPA.Config(), setting(1152, spec=FeatureSpec(tokens=(6, 768), grid=GRID)))
    count = sum(p.numel() for p in loss.parameters())
    assert count == 1152 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 768 + 768  # REPA's 8.13 M for SiT-XL


def test_irepa_projector_has_the_published_size() -> None:
    loss = IREPA(IREPA.Config(), setting(1152, spec=FeatureSpec(tokens=(6, 768), grid=GRID)))
    assert sum(p.numel() for p in loss.parameters()) == 1152 * 768 * 9 + 768  # iREPA's 7.96 M for SiT-XL


def test_irepa_projects_neighbours_on_the_grid() -> None:
    loss = make(IREPA)
    tokens = random(1, 6, 4).requires_grad_()
    projected = loss.project(Tap(tokens=tokens, positions=torch.arange(6)))
    projected[0, 0].sum().backward()  # the corner of a grid of 2 x 3
    assert tokens.grad is not None
    assert tokens.grad[0].abs().amax(1).gt(0).tolist() == [True, True, False, True, True, False]


def test_irepa_compares_with_the_normalised_target() -> None:
    loss, tokens, target = make(IREPA, alpha=0.6), random(3, 6, 4), random(3, 6, 5, seed=1)
    projected = loss.project(Tap(tokens=tokens, positions=torch.arange(6)))
    expected = negative_cosine(projected, spatial_norm(target, 0.6))
    torch.testing.assert_close(loss(make_step(tokens, target))["irepa"], expected)


def test_spatial_norm_of_a_single_token_is_finite() -> None:
    assert spatial_norm(random(2, 1, 5), 0.8).isfinite().all()


# ------------------------------------------------------------------------------------------------------- both of them


@both
def test_tokens_are_compared_with_the_target_at_their_positions(kind: Any) -> None:
    loss, tokens, target = make(kind), random(2, 6, 4), random(2, 6, 5, seed=1)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    (plain,) = loss(make_step(tokens, target)).values()
    (shuffled,) = loss(make_step(tokens[:, order], target, order)).values()
    torch.testing.assert_close(shuffled, plain)


@both
def test_every_sample_may_have_kept_other_tokens(kind: Any) -> None:
    loss, tokens, target = make(kind), random(2, 6, 4), random(2, 6, 5, seed=1)
    kept = torch.tensor([[4, 1], [0, 5]])
    tokens_kept = torch.stack([tokens[row, kept[row]] for row in range(2)])
    (both_rows,) = loss(make_step(tokens_kept, target, kept)).values()
    for row in range(2):
        (of_row,) = loss(make_step(tokens_kept[row : row + 1], target[row : row + 1], kept[row])).values()
        torch.testing.assert_close(both_rows[row : row + 1], of_row)


@both
def test_another_encoder_of_the_run_can_be_aligned_to(kind: Any) -> None:
    loss, tokens, target = make(kind, features="other"), random(2, 6, 4), random(2, 6, 9, seed=1)
    sources = {"given": Given(random(2, 6, 5)), "other": Given(target)}
    (value,) = loss(make_step(tokens, target, sources=sources)).values()
    projected = loss.project(Tap(tokens=tokens, positions=torch.arange(6)))
    torch.testing.assert_close(value, negative_cosine(projected, loss.prepared(target)))


@both
def test_the_feature_stream_can_be_aligned_to(kind: Any) -> None:
    loss, tokens = make(kind, target="stream"), random(2, 6, 4)
    stream = random(2, 6, 3, seed=1).requires_grad_()
    step = make_step(tokens, random(2, 6, 5), clean={IMAGE: torch.zeros(2, 1, 2, 3), FEATURES: stream})
    (value,) = loss(step).values()
    projected = loss.project(Tap(tokens=tokens, positions=torch.arange(6)))
    torch.testing.assert_close(value, negative_cosine(projected, loss.prepared(stream.detach())))
    value.sum().backward()
    assert stream.grad is None


@both
def test_a_run_without_feature_stream_cannot_be_aligned_to_it(kind: Any) -> None:
    image_alone = attrs.evolve(setting(), streams={IMAGE: StreamSpec(shape=(1, 2, 3))})
    with pytest.raises(UserError, match=r"--\.target stream: .*only image; choose --\.target encoder"):
        kind(kind.Config(target="stream"), image_alone)


@both
def test_dropped_tokens_do_not_count(kind: Any) -> None:
    options = {"kernel": 1} if kind is IREPA else {}  # wider kernels see zeros in place of the dropped tokens
    loss, tokens, target = make(kind, **options), random(2, 6, 4), random(2, 6, 5, seed=1)
    kept = torch.tensor([4, 1])
    (loss_of_two,) = loss(make_step(tokens[:, kept], target, kept)).values()
    prepared = loss.prepared(target)[:, kept]
    projected = loss.project(Tap(tokens=tokens, positions=torch.arange(6)))[:, kept]
    torch.testing.assert_close(loss_of_two, negative_cosine(projected, prepared))


@both
def test_gradient_reaches_tokens_and_projector_but_not_the_target(kind: Any) -> None:
    loss, tokens, target = make(kind), random(2, 6, 4).requires_grad_(), random(2, 6, 5, seed=1).requires_grad_()
    (value,) = loss(make_step(tokens, target)).values()
    value.mean().backward()
    assert target.grad is None
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in (tokens, *loss.parameters()))


@both
def test_another_grid_is_refused(kind: Any) -> None:
    with pytest.raises(UserError, match=r"\(2, 3\).*\(3, 2\).*--backbone\.patch"):
        kind(kind.Config(), setting(grid=(3, 2)))


@both
def test_the_block_is_asked_for_by_its_number(kind: Any) -> None:
    assert make(kind).taps == (2,)


@both
@pytest.mark.parametrize("number", [0.0, 1e30])
def test_extreme_tokens_give_finite_losses(kind: Any, number: float) -> None:
    loss = make(kind)
    target = torch.full((2, 6, 5), min(number, 1e15))  # the square of larger ones leaves float32
    (value,) = loss(make_step(random(2, 6, 4), target)).values()
    assert value.isfinite().all()


@pytest.mark.parametrize(("kind", "options"), [(REPA, {"layers": 0}), (IREPA, {"kernel": 2}), (IREPA, {"alpha": 1.5})])
def test_impossible_settings_are_refused(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        kind.Config(**options)
