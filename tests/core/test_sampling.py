"""Images from noise: what the network is asked on the way, and what it hears of its own earlier answers."""

from typing import Any

import attrs
import pytest
import torch
import toys
from torch import Tensor
from toy_plugin.networks import Doubled, Toy
from toy_plugin.sampling import Leap

from vco import flow
from vco.api import IMAGE, Condition, Denoised, SolverSetting, Streams, Times
from vco.config.settings import SampleConfig
from vco.data.reader import to_uint8
from vco.facts import RunFacts
from vco.objective import Objective
from vco.randomness import noise
from vco.run import Run
from vco.sampling.sample import sample
from vco.sampling.velocity import GuidedVelocity
from vco_plugins.solvers.euler import Euler

LABELS = torch.tensor([2, 0])
Asked = tuple[Streams, Times, Condition]


def path(*times: float) -> list[dict[str, float]]:
    return [{IMAGE: t} for t in times]


def state(seed: int = 0) -> Streams:
    return {IMAGE: torch.randn(2, *toys.SHAPE, generator=torch.Generator().manual_seed(seed))}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """All that networks are asked."""
    questions: list[Asked] = []
    forward = Toy.forward

    def noted(self: Toy, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        questions.append((noisy, times, condition))
        return forward(self, noisy, times, condition, taps)

    monkeypatch.setattr(Toy, "forward", noted)
    return questions


# ----------------------------------------------------------------------------------------------------------- branches


@torch.no_grad()
@pytest.mark.parametrize("velocity", [True, False])
def test_branches_are_evaluated_in_one_pass_and_combined(velocity: bool, asked: list[Asked]) -> None:
    objective = toys.make(velocity=velocity).eval()
    x = state()
    guided = GuidedVelocity(objective, LABELS)(x, *path(0.25, 0.5))[IMAGE]
    ((noisy, times, condition),) = asked
    assert torch.equal(noisy[IMAGE], torch.cat([x[IMAGE], x[IMAGE]]))
    assert times[IMAGE].tolist() == [0.25] * 4
    assert condition.labels.tolist() == [3, 3, 2, 0]
    assert condition.until == {}

    def alone(labels: Tensor) -> Tensor:
        t = {IMAGE: torch.full((2,), 0.25)}
        answer = objective.backbone(x, t, Condition(labels=labels))
        return answer.velocity[IMAGE] if velocity else (answer.clean[IMAGE] - x[IMAGE]) / 0.75

    null, conditional = alone(torch.tensor([3, 3])), alone(LABELS)
    torch.testing.assert_close(guided, null + 2 * (conditional - null))


@torch.no_grad()
def test_a_network_that_predicts_velocities_samples_as_one_that_predicts_the_same_clean_images() -> None:
    by_velocity, by_clean = toys.make(velocity=True).eval(), toys.make().eval()
    forward = by_velocity.backbone.forward

    def clean(noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        v = forward(noisy, times, condition, taps).velocity[IMAGE]
        return Denoised(clean={IMAGE: flow.clean(v, noisy[IMAGE], times[IMAGE])})

    by_clean.backbone.forward = clean
    one, two = (
        run_of(model, steps=10).solver.integrate(GuidedVelocity(model, LABELS), state(), model.process.path(10), silent)
        for model in (by_velocity, by_clean)
    )
    # up to the last step 1 - t is at least 0.1, so that nothing is clamped
    torch.testing.assert_close(one[IMAGE], two[IMAGE], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one[IMAGE], state()[IMAGE], atol=0.1)


# ---------------------------------------------------------------------------------------------------- carried context


@torch.no_grad()
def test_each_branch_hears_of_its_own_last_answer_and_of_no_other(asked: list[Asked]) -> None:
    objective = toys.make(remembers=True, velocity=True).eval()
    ask = GuidedVelocity(objective, LABELS)
    x, y = state(0), state(1)
    ask(x, *path(0.0, 0.5))
    ask(y, *path(0.5, 1.0))
    (first, second) = asked
    assert first[2].context == {}
    means = [
        objective.backbone(x, {IMAGE: torch.zeros(2)}, Condition(labels=labels)).velocity[IMAGE].mean((1, 2, 3))
        for labels in (torch.tensor([3, 3]), LABELS)
    ]
    assert not torch.allclose(*means)
    torch.testing.assert_close(second[2].context["last"], torch.cat(means)[:, None])


@torch.no_grad()
def test_a_branch_that_is_left_out_for_a_while_keeps_what_it_heard(asked: list[Asked]) -> None:
    objective = toys.make(remembers=True, until=0.5).eval()
    ask = GuidedVelocity(objective, LABELS)
    for t, until in ((0.0, 0.3), (0.6, 0.8), (0.2, 0.4)):
        ask(state(), *path(t, until))
    assert [len(noisy[IMAGE]) for noisy, _, _ in asked] == [4, 2, 4]
    told = [condition.context.get("last") for _, _, condition in asked]
    assert told[0] is None
    assert told[1] is not None
    assert told[2] is not None
    answers = objective.backbone(*asked[0]).context["last"], objective.backbone(*asked[1]).context["last"]
    torch.testing.assert_close(told[1], answers[0][2:])  # of the conditional branch
    torch.testing.assert_close(told[2], torch.cat([answers[0][:2], answers[1]]))


@torch.no_grad()
def test_every_batch_begins_without_memory(asked: list[Asked]) -> None:
    objective = toys.make(remembers=True).eval()
    for _ in range(2):
        GuidedVelocity(objective, LABELS)(state(), *path(0.0, 0.5))
    assert [condition.context for _, _, condition in asked] == [{}, {}]


@torch.no_grad()
def test_what_is_heard_does_not_depend_on_the_batch() -> None:
    objective = toys.make(remembers=True, velocity=True)
    run = run_of(objective, steps=4)
    together = sample(run, objective, torch.tensor([0, 1, 2]), [5, 6, 7])
    alone = [sample(run, objective, torch.tensor([label]), [5 + label]) for label in range(3)]
    assert torch.equal(together, torch.cat(alone))


# ---------------------------------------------------------------------------------------------------- mean velocities


@torch.no_grad()
def test_a_solver_of_mean_velocities_has_the_network_told_where_each_step_goes(asked: list[Asked]) -> None:
    objective = toys.make()
    run = attrs.evolve(run_of(objective, steps=2), solver=Leap(Leap.Config(), SolverSetting(streams=objective.specs)))
    sample(run, objective, LABELS, [0, 1])
    assert [times[IMAGE].unique().tolist() for _, times, _ in asked] == [[0.0], [0.5]]
    assert [condition.until[IMAGE].tolist() for _, _, condition in asked] == [[0.5] * 4, [1.0] * 4]


@torch.no_grad()
def test_other_solvers_do_not_tell_it(asked: list[Asked]) -> None:
    objective = toys.make()
    sample(run_of(objective, steps=2), objective, LABELS, [0, 1])
    assert [condition.until for _, _, condition in asked] == [{}, {}]


# -------------------------------------------------------------------------------------------------- noise and codec


def silent(k: int) -> Streams:
    raise AssertionError("a deterministic solver draws no noise")


class _Settings:
    """As much of a run's settings as sampling reads."""

    def __init__(self, steps: int) -> None:
        self.seed = 0
        self.sample = SampleConfig(steps=steps)


def run_of(objective: Objective, steps: int = 1) -> Run:
    """A run that is only sampled from."""
    facts = RunFacts(image_shape=toys.SHAPE, num_classes=toys.CLASSES, features={})
    settings: Any = _Settings(steps)
    unused: Any = None
    return Run(
        config=settings,
        facts=facts,
        at_hand=None,
        objective=objective,
        solver=Euler(Euler.Config(), SolverSetting(streams=objective.specs)),
        optimizer=unused,
        metrics=[],
        frozen={},
    )


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_noise_of_the_streams_scale_goes_in_and_what_comes_out_is_decoded(
    noise_scale: float, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = toys.make(codec=toys.codec_of(Doubled, noise_scale=noise_scale))
    ends: list[Tensor] = []
    integrate = Euler.integrate

    def noted(self: Euler, *given: Any) -> Streams:
        ends.append(integrate(self, *given)[IMAGE])
        return {IMAGE: ends[-1]}

    monkeypatch.setattr(Euler, "integrate", noted)
    images = sample(run_of(objective), objective, LABELS, [8, 3])
    start = noise_scale * noise({IMAGE: toys.SHAPE}, [8, 3], 0, "sampling")[IMAGE]
    assert torch.equal(asked[0][0][IMAGE][2:], start)
    assert torch.equal(images, to_uint8(ends[0] / 2))


def test_fresh_noise_of_a_solver_has_the_streams_scale_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_noise(self: Euler, velocity: object, state: Streams, path: Times, noise: Any) -> Streams:
        assert not torch.equal(noise(0)[IMAGE], noise(1)[IMAGE])
        assert torch.equal(noise(1)[IMAGE], noise(1)[IMAGE])
        drawn.append(noise(1)[IMAGE])
        return state

    drawn: list[Tensor] = []
    monkeypatch.setattr(Euler, "integrate", last_noise)
    for scale in (1.0, 2.0):
        objective = toys.make(codec=toys.codec_of(noise_scale=scale))
        sample(run_of(objective), objective, LABELS, [8, 3])
    assert torch.equal(drawn[1], 2 * drawn[0])


def test_an_image_does_not_depend_on_what_else_is_sampled() -> None:
    objective = toys.make()
    run = run_of(objective, steps=3)
    together = sample(run, objective, torch.tensor([0, 1, 2]), [5, 6, 7])
    assert torch.equal(sample(run, objective, torch.tensor([1]), [6])[0], together[1])
    assert not torch.equal(sample(run, objective, torch.tensor([1]), [6], seed=1)[0], together[1])
    assert not torch.equal(sample(run, objective, torch.tensor([1]), [9])[0], together[1])


@torch.no_grad()
def test_the_second_evaluation_of_a_step_may_be_guided_as_the_first(asked: list[Asked]) -> None:
    objective = toys.make(until=0.5).eval()  # guided below this time
    for by_step in (False, True):
        ask = GuidedVelocity(objective, LABELS, by_step=by_step)
        for t, until in ((0.4, 0.6), (0.6, 0.6), (0.6, 0.8), (0.8, 0.8)):
            ask(state(), *path(t, until))
    assert [len(noisy[IMAGE]) for noisy, _, _ in asked] == [4, 2, 2, 2, 4, 4, 2, 2]
