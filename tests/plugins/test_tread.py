"""TREAD: patches that skip blocks of `jit` in training."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from vco.api import IMAGE, BackboneSetting, Condition, Denoised, Step, StreamSpec
from vco_plugins.alignment import negative_cosine
from vco_plugins.backbones.jit import JiT
from vco_plugins.layers import Rope2d
from vco_plugins.routing import ROUTING, Route, kept

STREAMS = {IMAGE: StreamSpec(shape=(2, 4, 6))}
PATCHES, CLASSES, BATCH = 6, 3, 4
SIZES: Any = {"width": 16, "depth": 5, "heads": 2, "bottleneck": 4, "patch": 2, "context_tokens": 2}
ROUTE: Any = {"route_ratio": 0.5, "route_start": 2, "route_end": 4}
joins = pytest.mark.parametrize("context_start", [0, 1, 2, 4])  # before, at the start of, inside and after the route


def network(context_start: int = 1, trained: bool = True, **options: Any) -> JiT:
    """A network in training mode; `trained` gives every parameter, also those that start as zero, a random value."""
    torch.manual_seed(0)
    config = JiT.Config(**SIZES, context_start=context_start, **options)
    backbone = JiT(config, BackboneSetting(streams=STREAMS, num_classes=CLASSES))
    if trained:
        for parameter in backbone.parameters():
            nn.init.normal_(parameter, std=0.3)
    return backbone.train()


def draws(seed: int = 1) -> Tensor:
    return torch.rand(BATCH, PATCHES, generator=torch.Generator().manual_seed(seed))


def ask(backbone: JiT, routing: Tensor | None = None, rows: slice = slice(None), per_token: bool = False) -> Denoised:
    """One forward pass with the tokens after every block; some rows of a fixed batch."""
    generator = torch.Generator().manual_seed(7)
    noisy = torch.randn(BATCH, *STREAMS[IMAGE].shape, generator=generator)
    t = torch.rand((BATCH, PATCHES) if per_token else (BATCH,), generator=generator)
    context = {} if routing is None else {ROUTING: routing[rows]}
    condition = Condition(labels=(torch.arange(BATCH) % (CLASSES + 1))[rows], context=context)
    return backbone({IMAGE: noisy[rows]}, {IMAGE: t[rows]}, condition, tuple(range(1, backbone.depth + 1)))


def assert_same(one: Denoised, other: Denoised) -> None:
    """Both are the same, bit for bit."""
    assert torch.equal(one.clean[IMAGE], other.clean[IMAGE])
    for number, tap in one.taps.items():
        assert torch.equal(tap.tokens, other.taps[number].tokens)
        assert torch.equal(tap.positions, other.taps[number].positions)


# ----------------------------------------------------------------------------------------------------------- the route


def test_the_patches_with_the_smallest_numbers_are_kept_in_their_order() -> None:
    noise = torch.tensor([[0.7, 0.1, 0.9, 0.3, 0.5, 0.2]])
    assert kept(noise, 0.5).tolist() == [[1, 5, 3]]


@pytest.mark.parametrize(
    ("patches", "ratio", "count"),
    [(256, 0.5, 128), (256, 0.3, 180), (256, 0.7, 77), (16, 0.7, 5), (5, 0.5, 3), (10, 0.3, 7)],
)
def test_the_number_of_kept_patches_is_the_published_one(patches: int, ratio: float, count: int) -> None:
    assert kept(torch.rand(2, patches), ratio).shape == (2, count)


def test_patches_that_skipped_the_blocks_come_back_as_they_were() -> None:
    x = torch.arange(0.0, 60, 10)[None, :, None]
    route = Route.of(torch.tensor([[0.7, 0.1, 0.9, 0.3, 0.5, 0.2]]), 0.5, x)
    assert route.entered(x).flatten().tolist() == [10, 50, 30]
    assert route.left(route.entered(x) + 1).flatten().tolist() == [0, 11, 20, 31, 40, 51]


def test_tokens_in_front_of_the_patches_are_never_routed() -> None:
    patches = torch.arange(0.0, 60, 10)[None, :, None]
    front = torch.tensor([1.0, 2.0])[None, :, None]
    x = torch.cat([front, patches], dim=1)
    route = Route.of(torch.tensor([[0.7, 0.1, 0.9, 0.3, 0.5, 0.2]]), 0.5, x)
    assert route.entered(x).flatten().tolist() == [1, 2, 10, 50, 30]
    assert route.left(route.entered(x) + 1).flatten().tolist() == [2, 3, 0, 11, 20, 31, 40, 51]


@pytest.mark.parametrize("front", [0, 2])
def test_rotary_embedding_follows_the_positions(front: int) -> None:
    rope, positions = Rope2d(8, (2, 3), context_tokens=2), torch.tensor([[1, 5, 3], [0, 4, 2]])
    x = torch.randn(2, 2, front + 6, 8, generator=torch.Generator().manual_seed(0))
    index = torch.cat([torch.arange(front).expand(2, -1), front + positions], dim=1)
    index = index[:, None, :, None].expand(-1, 2, -1, 8)
    # up to rounding: a vectorised complex product rounds differently at its end
    torch.testing.assert_close(rope(x.gather(2, index), positions), rope(x).gather(2, index), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- the network


@joins
def test_a_network_that_routes_nothing_is_the_plain_one(context_start: int) -> None:
    off = network(context_start, route_start=2, route_end=4)
    assert not off.draws
    assert_same(ask(network(context_start)), ask(off, draws()))


@joins
def test_outside_training_nothing_is_routed(context_start: int) -> None:
    plain = ask(network(context_start).eval())
    assert_same(plain, ask(network(context_start, **ROUTE).eval(), draws()))


def test_without_random_numbers_nothing_is_routed_in_training() -> None:
    assert_same(ask(network()), ask(network(**ROUTE)))


@joins
def test_blocks_on_the_route_see_the_kept_patches_alone(context_start: int) -> None:
    routed, plain, routing = network(context_start, **ROUTE), network(context_start), draws()
    answer, whole = ask(routed, routing), ask(plain)
    positions = kept(routing, 0.5)
    for number in (1, 5):
        assert torch.equal(answer.taps[number].positions, torch.arange(PATCHES))
    for number in (2, 3, 4):
        assert torch.equal(answer.taps[number].positions, positions)
        assert answer.taps[number].tokens.shape == (BATCH, 3, 16)
    assert torch.equal(answer.taps[1].tokens, whole.taps[1].tokens)
    assert not torch.equal(answer.taps[5].tokens, whole.taps[5].tokens)


def test_a_route_that_keeps_all_patches_changes_nothing_but_their_order() -> None:
    all_kept, plain = ask(network(**(ROUTE | {"route_ratio": 0.1})), draws()), ask(network())  # int(0.6) are left out
    # attention sums in another order
    torch.testing.assert_close(all_kept.clean[IMAGE], plain.clean[IMAGE], rtol=1e-4, atol=1e-4)
    for number, tap in plain.taps.items():
        ours = all_kept.taps[number]
        torch.testing.assert_close(ours.tokens, ours.of(tap.tokens), rtol=1e-4, atol=1e-4)


def test_patches_that_skip_the_blocks_change_nothing_in_them() -> None:
    routing = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.7]).expand(BATCH, -1)  # patches 0, 2 and 4 are kept
    backbone = network(**(ROUTE | {"route_start": 1}))
    before = ask(backbone, routing).taps[4].tokens
    with torch.no_grad():
        backbone.positions[[1, 3, 5]] += 1
    assert torch.equal(ask(backbone, routing).taps[4].tokens, before)


@pytest.mark.parametrize("per_token", [False, True])
@joins
def test_rows_do_not_mix(context_start: int, per_token: bool) -> None:
    backbone, routing = network(context_start, **ROUTE), draws()
    together = ask(backbone, routing, per_token=per_token)
    for row in range(BATCH):
        alone = ask(backbone, routing, slice(row, row + 1), per_token)
        # matrix products of another height are summed in another order
        torch.testing.assert_close(together.clean[IMAGE][[row]], alone.clean[IMAGE], rtol=1e-4, atol=1e-4)


@joins
def test_times_of_patches_follow_them(context_start: int) -> None:
    backbone, routing = network(context_start, **ROUTE), draws()
    noisy = {IMAGE: torch.randn(BATCH, 2, 4, 6, generator=torch.Generator().manual_seed(3))}
    condition = Condition(labels=torch.arange(BATCH) % CLASSES, context={ROUTING: routing})
    t = torch.tensor([0.2, 0.4, 0.6, 0.8])
    of_samples = backbone(noisy, {IMAGE: t}, condition).clean[IMAGE]
    of_patches = backbone(noisy, {IMAGE: t[:, None].expand(-1, PATCHES)}, condition).clean[IMAGE]
    # sums in another order
    torch.testing.assert_close(of_patches, of_samples, rtol=1e-4, atol=1e-4)
    later = t[:, None].repeat(1, PATCHES)
    later[torch.arange(BATCH), kept(routing, 0.5)[:, 0]] += 0.1
    assert not torch.allclose(backbone(noisy, {IMAGE: later}, condition).clean[IMAGE], of_samples, atol=1e-3)


@joins
def test_gradients_reach_every_parameter_and_every_patch(context_start: int) -> None:
    backbone = network(context_start, **ROUTE)
    ask(backbone, draws()).clean[IMAGE].square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"route_ratio": 1.0}, "route_ratio"),
        ({"route_start": 0}, "route_start"),
        ({**ROUTE, "route_end": 5}, r"block 2 \(route_start\) to block 5 \(route_end\) must end below the depth \(5\)"),
        ({**ROUTE, "route_start": 4, "route_end": 3}, "not before it starts"),
        ({"route_ratio": 0.5, "depth": 3, "route_start": 3}, "must end below the depth"),
    ],
)
def test_routes_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JiT.Config(**(SIZES | {"context_start": 1} | options))


@pytest.mark.parametrize(("depth", "blocks"), [(12, range(2, 9)), (28, range(2, 25)), (5, range(2, 4))])
def test_the_default_route_is_the_published_one(depth: int, blocks: range) -> None:
    assert JiT.Config(depth=depth, route_ratio=0.5).routed == blocks


# --------------------------------------------------------------------------------------------------------- training


ROUTED_REPA = (*tiny.ONE_STREAM[:-1], "repa", "--loss.hidden", "8", "--loss.block", "2", "--backbone.depth", "4")
OPTIONS = (*ROUTED_REPA, "--backbone.route-ratio", "0.5", "--backbone.route-start", "2", "--backbone.route-end", "3")


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    training = tiny.prepare(tmp_path_factory.mktemp("run"), *OPTIONS)
    tiny.scramble(training)
    training.objective.train()
    return training


def test_alignment_of_a_routed_block_compares_the_kept_patches(
    training: tiny.Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss: Any = training.objective.losses["repa"]
    seen: list[Step] = []
    forward = loss.forward

    def watched(step: Step) -> Any:
        seen.append(step)
        return forward(step)

    monkeypatch.setattr(loss, "forward", watched)
    inputs, draw = tiny.batch(training)
    losses = training.objective(inputs, draw)
    losses["loss"].backward()
    tap = seen[0].denoised.taps[2]
    assert tap.positions.shape == (tiny.BATCH, 8)
    projected, tokens = loss.project(tap), seen[0].real().tokens
    each = torch.stack([tokens[row, tap.positions[row]] for row in range(tiny.BATCH)])
    torch.testing.assert_close(losses["repa"], negative_cosine(projected, each).mean())
    assert [name for name, p in training.parameters.items() if p.grad is None or not p.grad.isfinite().all()] == []


def test_two_shares_are_as_good_as_one(training: tiny.Training) -> None:
    whole = tiny.batch(training)
    losses = training.objective(*whole)
    shares = [training.objective(*tiny.share(slice(start, start + 10), *whole)) for start in (0, 10)]
    for name, value in losses.items():
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, value)


def test_a_step_is_routed_and_an_evaluation_is_not(training: tiny.Training) -> None:
    inputs, draw = tiny.batch(training)
    routed = training.objective(inputs, draw)["image"]
    training.objective.eval()
    whole = training.objective(inputs, draw)["image"]
    again = training.objective(inputs, draw)["image"]
    training.objective.train()
    assert routed != whole
    assert whole == again


def test_accumulation_routes_the_same_patches(tmp_path: Path) -> None:
    one = tiny.train(tmp_path / "one", *OPTIONS, "--train.steps", "2")
    two = tiny.train(tmp_path / "two", *OPTIONS, "--train.steps", "2", "--train.accumulation", "2")
    for name, value in one.parameters.items():
        # Adam's first updates turn roundings of small gradients into small steps
        torch.testing.assert_close(two.parameters[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_routes_predicted_features_and_alignment(tmp_path: Path) -> None:
    options = (
        *("--backbone", "dino-forcing", "--backbone.hidden", "8", "--backbone.depth", "4", "--adapter", "none"),
        *("--backbone.route-ratio", "0.5", "--backbone.route-start", "2", "--backbone.route-end", "3"),
        *("--guidance", "cfg", "--loss", "dino-forcing=0.03,repa=0.5", "--loss.repa.block", "2"),
    )
    done = tiny.launch(*tiny.argv(tmp_path / "two", *options))
    assert done.returncode == 0, done.stderr
    tiny.train(tmp_path / "one", *options)
    for line, other in zip(tiny.metrics(tmp_path / "one"), tiny.metrics(tmp_path / "two"), strict=True):
        for name in ("loss", "image", "repa", "dino-forcing"):
            assert other[name] == pytest.approx(line[name], rel=1e-4, abs=1e-5)  # sums in another order, through Adam
