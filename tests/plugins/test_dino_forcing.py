"""DINO-Forcing: the network predicts features and is told its own last prediction."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import steps
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vco.api import (
    FEATURES,
    IMAGE,
    BackboneSetting,
    Condition,
    Denoised,
    Features,
    FeatureSource,
    FeatureSpec,
    LossSetting,
    SolverSetting,
    Step,
    Streams,
    StreamSpec,
    Times,
    UserError,
)
from vco.randomness import RowGenerator
from vco.sampling.sample import sample
from vco.sampling.velocity import GuidedVelocity
from vco_plugins.backbones.dino_forcing import DinoForcing
from vco_plugins.backbones.jit import JiT
from vco_plugins.losses.dino_forcing import DinoForcing as DinoForcingLoss
from vco_plugins.solvers.euler import Euler
from vco_plugins.solvers.heun import Heun

STREAMS = {IMAGE: StreamSpec(shape=(2, 4, 6))}
PATCHES, WIDTH, CLASSES = 6, 5, 3
ENCODERS = {
    "given": FeatureSpec(tokens=(PATCHES, WIDTH), grid=(2, 3)),
    "other": FeatureSpec(tokens=(PATCHES, 9), grid=(2, 3)),
    "coarse": FeatureSpec(tokens=(2, WIDTH), grid=(1, 2)),
}
SIZES: Any = {
    "width": 16,
    "depth": 3,
    "heads": 2,
    "bottleneck": 4,
    "patch": 2,
    "context_tokens": 2,
    "context_start": 1,
    "hidden": 7,
}


def network(**options: Any) -> DinoForcing:
    """A network whose parameters, also those that start as zero, have random values."""
    torch.manual_seed(0)
    config = DinoForcing.Config(**(SIZES | options))
    backbone = DinoForcing(config, BackboneSetting(streams=STREAMS, num_classes=CLASSES, features=ENCODERS))
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ask(backbone: DinoForcing, told: Tensor | None = None, taps: tuple[int, ...] = ()) -> Denoised:
    context = {} if told is None else {FEATURES: told}
    condition = Condition(labels=torch.arange(4), context=context)
    return backbone({IMAGE: random(4, 2, 4, 6)}, {IMAGE: torch.linspace(0.1, 0.9, 4)}, condition, taps)


# --------------------------------------------------------------------------------------------------------- the backbone


def test_it_hands_out_a_prediction_for_every_patch() -> None:
    answer = ask(network())
    assert answer.context[FEATURES].shape == (4, PATCHES, WIDTH)
    assert answer.taps == {}
    assert ask(network(features="other")).context[FEATURES].shape == (4, PATCHES, 9)


def test_the_prediction_is_made_of_the_patches_after_the_last_block() -> None:
    backbone = network()
    answer = ask(backbone, taps=(1, 3))
    assert set(answer.taps) == {1, 3}
    hidden, predict = answer.taps[3].tokens, backbone.predict
    expected = predict[4](F.silu(predict[2](F.silu(predict[0](hidden)))))
    assert torch.equal(answer.context[FEATURES], expected)


def test_nothing_told_is_the_same_as_zeros() -> None:
    one, other = ask(network()), ask(network(), torch.zeros(4, PATCHES, WIDTH))
    assert torch.equal(one.clean[IMAGE], other.clean[IMAGE])


def test_what_is_told_is_normalised_over_its_channels() -> None:
    torch.testing.assert_close(
        F.layer_norm(torch.tensor([1.0, 2.0, 3.0, 6.0]), (4,)),
        torch.tensor([-1.0690, -0.5345, 0.0, 1.6036]),
        rtol=0,
        atol=5e-5,
    )
    backbone, told = network(), random(4, PATCHES, WIDTH, seed=1)
    before, after = ask(backbone, told), ask(backbone, 3 * told + 2)
    # the epsilon of the norm counts less beside larger numbers
    torch.testing.assert_close(after.clean[IMAGE], before.clean[IMAGE], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(ask(backbone).clean[IMAGE], before.clean[IMAGE], atol=0.1)


def test_patches_and_features_are_joined_before_they_are_told_their_positions() -> None:
    backbone, told = network(), random(4, PATCHES, WIDTH, seed=1)
    noisy, condition = {IMAGE: random(4, 2, 4, 6)}, Condition(labels=torch.arange(4), context={FEATURES: told})
    normal = (told - told.mean(-1, keepdim=True)) / (told.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    both = torch.cat([backbone.embed(noisy[IMAGE]), normal], dim=-1)
    # the norm's own order of sums
    torch.testing.assert_close(backbone.embedded(noisy, condition), backbone.join(both), rtol=1e-4, atol=1e-4)


def test_rows_do_not_mix() -> None:
    backbone, told = network(), random(4, PATCHES, WIDTH, seed=1)
    together, changed = ask(backbone, told), told.clone()
    changed[1:] += 1
    alone = ask(backbone, changed)
    assert torch.equal(together.clean[IMAGE][0], alone.clean[IMAGE][0])
    assert torch.equal(together.context[FEATURES][0], alone.context[FEATURES][0])
    assert not torch.equal(together.clean[IMAGE][1], alone.clean[IMAGE][1])


def test_features_and_prediction_cost_eight_million_parameters_at_size_b() -> None:
    streams = {IMAGE: StreamSpec(shape=(3, 256, 256))}
    encoder = {"dinov2": FeatureSpec(tokens=(256, 768), grid=(16, 16))}
    with torch.device("meta"):
        setting = BackboneSetting(streams=streams, num_classes=1000, features=encoder)
        ours, plain = DinoForcing(DinoForcing.Config(), setting), JiT(JiT.Config(), setting)
    count = [sum(parameter.numel() for parameter in backbone.parameters()) for backbone in (ours, plain)]
    assert count[0] - count[1] == (2 * 768 + 1) * 768 + 769 * 2048 + 2049 * 2048 + 2049 * 768  # 8.5 M


def test_routed_patches_are_back_before_the_prediction() -> None:
    backbone = network(route_ratio=0.5, route_start=1, route_end=2).train()
    condition = Condition(labels=torch.arange(4), context={"routing": torch.rand(4, PATCHES)})
    answer = backbone({IMAGE: random(4, 2, 4, 6)}, {IMAGE: torch.full((4,), 0.5)}, condition)
    assert answer.context[FEATURES].shape == (4, PATCHES, WIDTH)


def test_an_encoder_on_another_grid_is_refused() -> None:
    with pytest.raises(UserError, match=r"the grid of coarse \(1, 2\) is not the patches' grid \(2, 3\)"):
        network(features="coarse")


def test_a_run_without_encoders_is_refused() -> None:
    with pytest.raises(UserError, match="this run has no encoder"):
        DinoForcing(DinoForcing.Config(**SIZES), BackboneSetting(streams=STREAMS, num_classes=CLASSES))


# ------------------------------------------------------------------------------------------------------------ the loss


class Given(FeatureSource):
    """An encoder whose tokens are known beforehand."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens
        self.spec = ENCODERS["given"]

    def load(self) -> None: ...

    def forward(self, images: Tensor) -> Features:
        return Features(tokens=self.tokens, grid=(2, 3), pooled=self.tokens.mean(1))


class Predicting:
    """A network that predicts given features, and notes what it was told."""

    def __init__(self, features: Tensor | None) -> None:
        self.features = features
        self.conditions: list[Condition] = []

    def __call__(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        self.conditions.append(condition)
        return Denoised(clean=noisy, context={} if self.features is None else {FEATURES: self.features})


def make_loss(**options: Any) -> DinoForcingLoss:
    setting = LossSetting(width=16, grid=(2, 3), depth=3, features=ENCODERS, streams=STREAMS, num_classes=CLASSES)
    return DinoForcingLoss(DinoForcingLoss.Config(**options), setting)


def make_step(
    first: Tensor | None, true: Tensor, context: Mapping[str, Tensor] | None = None
) -> tuple[Step, Predicting]:
    images, labels, quiet = (
        torch.zeros(len(true), 2, 4, 6),
        torch.zeros(len(true), dtype=torch.int64),
        Predicting(first),
    )
    condition = Condition(labels=labels, context=context or {})
    step = steps.make_step(images, images, labels, {"given": Given(true)}, quiet=quiet, condition=condition)
    return step, quiet


def told(first: Tensor, truth: Tensor, **options: float) -> Tensor:
    step, _ = make_step(first, truth)
    return make_loss(**options).prepare(step).condition.context[FEATURES]


def test_the_first_pass_is_told_no_features_but_everything_else() -> None:
    caption = torch.ones(2, 3)
    step, quiet = make_step(
        torch.ones(2, PATCHES, WIDTH), torch.zeros(2, PATCHES, WIDTH), {"caption": caption, FEATURES: torch.ones(2, 1)}
    )
    prepared = make_loss().prepare(step)
    assert list(quiet.conditions[0].context) == ["caption"]
    assert set(prepared.condition.context) == {"caption", FEATURES}
    assert prepared.condition.labels is step.condition.labels


def test_samples_are_told_the_prediction_the_truth_or_nothing() -> None:
    first, true = torch.full((3, PATCHES, WIDTH), 2.0), torch.full((3, PATCHES, WIDTH), 5.0)
    assert torch.equal(told(first, true, true=0.0, zero=0.0), first)
    assert torch.equal(told(first, true, true=1.0, zero=0.0), true)
    assert not told(first, true, true=1.0, zero=1.0).any()  # zeroing wins


def test_shares_of_what_samples_are_told() -> None:
    count = 20_000
    what = told(torch.full((count, 1, 1), 2.0), torch.full((count, 1, 1), 5.0)).flatten()
    for value, share in ((0.0, 0.1), (5.0, 0.045), (2.0, 0.855)):
        # five standard errors
        assert (what == value).float().mean().item() == pytest.approx(
            share, abs=5 * (share * (1 - share) / count) ** 0.5
        )


def test_what_a_sample_is_told_depends_on_its_slot_alone() -> None:
    first, true = torch.full((40, 1, 1), 2.0), torch.full((40, 1, 1), 5.0)
    whole = told(first, true, true=0.3, zero=0.3)
    step, _ = make_step(first[20:], true[20:])
    step.generator = RowGenerator(step.generator.key, range(20, 40))
    half = make_loss(true=0.3, zero=0.3).prepare(step).condition.context[FEATURES]
    assert torch.equal(half, whole[20:])
    assert len(whole.unique()) == 3


def test_the_loss_is_minus_the_mean_cosine_of_the_second_prediction() -> None:
    true, predicted = random(3, PATCHES, WIDTH, seed=1), random(3, PATCHES, WIDTH, seed=2)
    step, _ = make_step(None, true)
    answered = step.answered(Denoised(clean=step.noisy, context={FEATURES: predicted}))
    terms = make_loss().forward(answered)
    torch.testing.assert_close(dict(terms), {"dino-forcing": -F.cosine_similarity(predicted, true, dim=-1).mean(1)})
    assert make_loss().config.weight == 0.03


def test_a_network_that_predicts_other_features_is_refused() -> None:
    step, _ = make_step(torch.zeros(2, PATCHES, 9), torch.zeros(2, PATCHES, WIDTH))
    with pytest.raises(UserError, match=r"teaches the features of given .* --backbone.features"):
        make_loss().prepare(step)


# ------------------------------------------------------------------------------------------------------------- a run


OPTIONS = (
    "--backbone", "dino-forcing", "--backbone.hidden", "8", "--adapter", "none", "--loss", "dino-forcing",
    "--guidance", "cfg", "--guidance.scale", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    training = tiny.prepare(tmp_path_factory.mktemp("run"), *OPTIONS)
    tiny.scramble(training)
    return training


@pytest.fixture
def asked(training: tiny.Training) -> Iterator[list[tuple[Condition, bool, bool]]]:
    """Condition, training mode and gradient of each call of the network."""
    calls: list[tuple[Condition, bool, bool]] = []

    def note(module: Any, arguments: Any, answer: Any) -> None:
        calls.append((arguments[2], module.training, torch.is_grad_enabled()))

    handle = training.objective.backbone.register_forward_hook(note)
    yield calls
    handle.remove()


def test_a_step_is_two_passes_and_the_first_is_quiet(training: tiny.Training, asked: list[Any]) -> None:
    training.objective.train()
    losses = training.objective(*tiny.batch(training))
    losses["loss"].backward()
    (first, *first_mode), (second, *second_mode) = asked
    assert (first_mode, second_mode) == ([False, False], [True, True])
    assert FEATURES not in first.context
    assert torch.equal(first.labels, second.labels)  # the same labels are dropped
    torch.testing.assert_close(losses["loss"], losses["image"] + 0.03 * losses["dino-forcing"])
    assert [name for name, p in training.parameters.items() if p.grad is None or not p.grad.any()] == []
    training.optimizer.zero_grad()


def test_no_gradient_flows_into_the_first_pass(training: tiny.Training) -> None:
    seen: list[Tensor] = []
    loss: Any = training.objective.losses["dino-forcing"]
    prepare = loss.prepare

    def watched(step: Step) -> Step:
        prepared = prepare(step)
        seen.append(prepared.condition.context[FEATURES])
        return prepared

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "prepare", watched)
        training.objective.train()(*tiny.batch(training))
    assert not seen[0].requires_grad


def test_two_shares_are_as_good_as_one(training: tiny.Training) -> None:
    whole = tiny.batch(training)
    losses = training.objective.train()(*whole)
    shares = [training.objective(*tiny.share(slice(start, start + 10), *whole)) for start in (0, 10)]
    for name, value in losses.items():
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, value)


def test_a_head_that_no_loss_teaches_still_gets_a_gradient(tmp_path: Path) -> None:
    off = tiny.train(tmp_path, *OPTIONS, "--loss.stop-after", "0", "--train.steps", "1")
    assert not any("dino-forcing" in line for line in tiny.metrics(tmp_path))
    assert off.step == 1


def velocity_of(training: tiny.Training) -> GuidedVelocity:
    training.objective.eval()
    return GuidedVelocity(training.objective, torch.arange(3))


def noise() -> Streams:
    return {IMAGE: random(3, 1, 8, 8, seed=4)}


@torch.no_grad()
def test_each_branch_is_told_its_own_last_prediction(training: tiny.Training, asked: list[Any]) -> None:
    velocity, at = velocity_of(training), {IMAGE: 0.5}
    velocity(noise(), at, at)
    kept = {branch: context[FEATURES] for branch, context in velocity.context.items()}
    assert set(kept) == {"conditional", "null"}
    assert not torch.equal(kept["conditional"], kept["null"])
    velocity(noise(), at, at)
    assert FEATURES not in asked[0][0].context
    assert torch.equal(asked[1][0].context[FEATURES], torch.cat([kept["conditional"], kept["null"]]))


@torch.no_grad()
def test_the_null_branch_enters_a_late_interval_with_nothing(training: tiny.Training, asked: list[Any]) -> None:
    velocity = velocity_of(training)
    for t in (0.0, 0.05, 0.5, 0.6):
        velocity(noise(), {IMAGE: t}, {IMAGE: t})
    assert [len(condition.labels) for condition, *_ in asked] == [3, 3, 6, 6]
    conditional, null = asked[2][0].context[FEATURES].chunk(2)
    assert conditional.any()
    assert not null.any()
    assert asked[3][0].context[FEATURES].chunk(2)[1].any()


@torch.no_grad()
def test_a_branch_that_is_not_evaluated_keeps_what_it_had(training: tiny.Training) -> None:
    velocity = velocity_of(training)
    velocity(noise(), {IMAGE: 0.5}, {IMAGE: 0.5})
    null = velocity.context["null"][FEATURES]
    velocity(noise(), {IMAGE: 0.05}, {IMAGE: 0.05})  # below the interval: the conditional branch alone
    assert velocity.context["null"][FEATURES] is null


@pytest.mark.parametrize(("solver", "calls"), [(Euler, 3), (Heun, 5)])
@torch.no_grad()
def test_every_evaluation_of_a_solver_is_told_the_prediction_of_the_one_before(
    training: tiny.Training, asked: list[Any], solver: Any, calls: int
) -> None:
    predictions: list[Tensor] = []
    velocity = velocity_of(training)

    def watched(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        guided = velocity(state, times, until)
        predictions.append(velocity.context["conditional"][FEATURES])
        return guided

    path = training.objective.process.path(3)
    solver(solver.Config(), SolverSetting(streams=training.objective.specs)).integrate(
        watched, noise(), path, lambda k: {}
    )
    assert len(asked) == calls
    assert FEATURES not in asked[0][0].context
    for (condition, *_), before in zip(asked[1:], predictions, strict=False):
        assert torch.equal(condition.context[FEATURES][:3], before)


def test_a_sample_depends_on_its_own_index_and_label_alone(training: tiny.Training) -> None:
    labels = torch.arange(4)
    together = sample(training.run, training.objective, labels, range(4)).int()
    alone = torch.cat([sample(training.run, training.objective, labels[[i]], [i]) for i in range(4)]).int()
    assert (together - alone).abs().max() <= 1  # a rounding at the edge of a grey value
    assert torch.equal(together, sample(training.run, training.objective, labels, range(4)).int())


def test_accumulation_gives_the_same_weights(tmp_path: Path) -> None:
    one = tiny.train(tmp_path / "one", *OPTIONS, "--train.steps", "2")
    two = tiny.train(tmp_path / "two", *OPTIONS, "--train.steps", "2", "--train.accumulation", "2")
    for name, value in one.parameters.items():
        # Adam's first updates turn roundings of small gradients into small steps
        torch.testing.assert_close(two.parameters[name], value, rtol=1e-3, atol=1e-4)
