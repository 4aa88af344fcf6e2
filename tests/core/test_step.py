"""What a loss may do with a step: ask the network again, ask its average, prepare the step, draw, replace."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar
from unittest import mock

import attrs
import pytest
import torch
import toys
from torch import Tensor
from toy_plugin.losses import Asking, AtATime, Drawing, Instead, Square

from vco.api import IMAGE, Denoised, FeatureSpec, Step
from vco.errors import UserError
from vco.objective import Objective
from vco.testing.toy import ToyEncoder
from vco.training.ema import EMA


class Noted(Square):
    """Keeps the step it was given."""

    steps: ClassVar[list[Step]] = []

    def forward(self, step: Step) -> dict[str, Tensor]:
        self.steps.append(step)
        return {"noted": step.denoised.clean[IMAGE].sum() * 0.0}


def step_of(objective: Objective, **changes: Any) -> Step:
    """The step that the losses of an objective see; the last of its losses has to be `Noted`."""
    Noted.steps.clear()
    objective(toys.inputs(**changes), toys.draw(objective))
    (step,) = Noted.steps
    return step


def asked(ask: Callable[..., Denoised], step: Step) -> Tensor:
    return ask(step.noisy, step.times, step.condition).velocity[IMAGE]


# --------------------------------------------------------------------------------------------------- asking the network


@pytest.mark.parametrize("velocity", [True, False])
def test_the_network_asked_again_about_the_step_gives_the_same_answer_with_gradient(velocity: bool) -> None:
    objective = toys.make({"noted": Noted}, velocity=velocity)
    step = step_of(objective)
    again = step.network(step.noisy, step.times, step.condition, (2,))
    assert torch.equal(again.clean[IMAGE], step.denoised.clean[IMAGE])
    assert torch.equal(again.velocity[IMAGE], step.denoised.velocity[IMAGE])
    assert again.taps.keys() == {2}
    gradients = torch.autograd.grad(again.velocity[IMAGE].sum(), [toys.network_of(objective).gain])
    assert gradients[0].abs() > 0


@pytest.mark.parametrize("velocity", [True, False])
def test_an_answer_holds_both_the_clean_prediction_and_the_velocity(velocity: bool) -> None:
    step = step_of(toys.make({"noted": Noted}, velocity=velocity))
    t = step.times[IMAGE].view(-1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    clean, v, x = step.denoised.clean[IMAGE], step.denoised.velocity[IMAGE], step.noisy[IMAGE]
    if velocity:
        torch.testing.assert_close(clean, x + (1 - t) * v)
    else:
        torch.testing.assert_close(v, (clean - x) / (1 - t).clamp(min=0.05))


def test_the_network_can_be_asked_at_another_noise_level_of_the_same_noise() -> None:
    step = step_of(toys.make({"noted": Noted}, codec=toys.codec_of(noise_scale=2.0)))
    noisy = step.noised({IMAGE: torch.full((4,), 0.25)})[IMAGE]
    torch.testing.assert_close(noisy, 0.25 * step.clean[IMAGE] + 0.75 * 2.0 * step.noise[IMAGE])
    assert torch.equal(step.noised(step.times)[IMAGE], step.noisy[IMAGE])


def test_the_quiet_network_is_in_eval_mode_and_without_gradient_and_leaves_training_mode_alone() -> None:
    objective = toys.make({"noted": Noted}, drops=True).train()
    step = step_of(objective)
    torch.manual_seed(0)
    loud = [asked(step.network, step) for _ in range(2)]
    quiet = [asked(step.quiet, step) for _ in range(2)]
    assert not torch.equal(*loud)  # it drops at random
    assert torch.equal(*quiet)
    assert loud[0].requires_grad
    assert not quiet[0].requires_grad
    assert objective.backbone.training
    torch.testing.assert_close(asked(objective.eval().network, step), quiet[0])


def test_the_network_is_in_training_mode_again_after_a_quiet_question_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective = toys.make({"noted": Noted}).train()
    step = step_of(objective)

    def failing(*given: object) -> Denoised:
        assert not objective.backbone.training
        raise RuntimeError("no answer")

    monkeypatch.setattr(objective.backbone, "forward", failing)
    with pytest.raises(RuntimeError, match="no answer"):
        asked(step.quiet, step)
    assert objective.backbone.training


def test_what_guidance_hides_is_hidden_also_when_the_network_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = toys.make({"noted": Noted})
    step = step_of(objective)
    hidden = replace(step.condition, nulled={IMAGE: torch.tensor([True, False, False, True])})
    answer = step.network(step.noisy, step.times, hidden).clean[IMAGE]
    zeros = step.network({IMAGE: torch.zeros_like(step.noisy[IMAGE])}, step.times, step.condition).clean[IMAGE]
    plain = step.denoised.clean[IMAGE]
    assert torch.equal(answer[0], zeros[0])
    assert torch.equal(answer[3], zeros[3])
    assert torch.equal(answer[1:3], plain[1:3])
    assert not torch.equal(zeros[0], plain[0])


# -------------------------------------------------------------------------------------------------------- the teacher


@torch.no_grad()
def move(objective: Objective) -> None:
    """One step of training."""
    for parameter in objective.parameters():
        parameter.add_(1.0)


def test_the_teacher_is_the_first_average_without_a_copy_and_follows_it() -> None:
    objective = toys.make({"noted": Noted})
    ema = EMA(objective, (0.5, 0.9))
    objective.teach(ema.averages[0])
    twin = objective.beside["teacher"].__self__
    for name, tensor in twin.state_dict().items():
        assert tensor.data_ptr() == ema.averages[0][name].data_ptr(), name
    before = asked(step_of(objective).teacher, step_of(objective))
    move(objective)
    ema.update()
    step = step_of(objective)
    followed = asked(step.teacher, step)
    average = objective.with_weights(ema.averages[0])
    assert torch.equal(followed, asked(average.network, step))
    assert not torch.equal(followed, before)
    assert not torch.equal(followed, asked(step.network, step))


def test_the_teacher_is_frozen_in_eval_mode_and_no_part_of_what_is_trained_or_saved() -> None:
    objective = toys.make({"noted": Noted}, drops=True)
    names = objective.state_dict().keys()
    objective.teach(EMA(objective, (0.5,)).averages[0])
    step = step_of(objective.train())
    one, two = (asked(step.teacher, step) for _ in range(2))
    assert torch.equal(one, two)
    assert not one.requires_grad
    assert objective.state_dict().keys() == names
    twin = objective.beside["teacher"].__self__
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in objective.parameters())
    assert all(parameter.requires_grad for parameter in objective.parameters())


def test_a_copy_with_other_weights_has_the_same_teacher() -> None:
    objective = toys.make({"noted": Noted})
    objective.teach(EMA(objective, (0.5,)).averages[0])
    assert objective.with_weights(objective.state_dict()).beside["teacher"] == objective.beside["teacher"]


def test_without_one_asking_the_teacher_says_what_has_to_be_declared() -> None:
    with pytest.raises(AssertionError, match="must declare needs_teacher = True"):
        _ = step_of(toys.make({"noted": Noted})).teacher


def test_a_loss_that_asks_network_and_teacher_trains_the_network_alone() -> None:
    objective = toys.make({"asking": Asking})
    ema = EMA(objective, (0.5,))
    objective.teach(ema.averages[0])
    losses = objective(toys.inputs(), toys.draw(objective))
    assert losses["asking"] > 0
    (gradient,) = torch.autograd.grad(losses["asking"], [toys.network_of(objective).gain])
    assert gradient.abs() > 0


# ---------------------------------------------------------------------------------------------------- preparing a step


def test_losses_prepare_the_step_in_their_order_and_the_network_is_asked_about_what_they_leave() -> None:
    shares = {"by-half": AtATime.Config(share=0.5), "by-quarter": AtATime.Config(share=0.25)}
    objective = toys.make({"by-half": AtATime, "by-quarter": AtATime, "noted": Noted}, configs=shares)
    drawn = toys.draw(objective)
    Noted.steps.clear()
    losses = objective(toys.inputs(), replace(drawn, times={IMAGE: torch.full((4,), 0.8)}, denoising_weights=of(0.8)))
    (step,) = Noted.steps
    torch.testing.assert_close(step.times[IMAGE], torch.full((4,), 0.1))  # 0.8 * 0.5 * 0.25
    torch.testing.assert_close(step.noisy[IMAGE], 0.1 * step.clean[IMAGE] + 0.9 * step.noise[IMAGE])
    assert torch.equal(step.denoised.clean[IMAGE], step.network(step.noisy, step.times, step.condition).clean[IMAGE])
    torch.testing.assert_close(losses["by-half.time"], torch.tensor(0.1))  # every loss sees the step as it was asked
    torch.testing.assert_close(losses["by-quarter.time"], torch.tensor(0.1))
    error = step.denoised.velocity[IMAGE] - (step.clean[IMAGE] - step.noisy[IMAGE]) / 0.9
    torch.testing.assert_close(losses[IMAGE], error.square().mean())


def of(time: float) -> dict[str, Tensor]:
    """Weights of one for all samples."""
    return {IMAGE: torch.full((4,), time) / time}


def test_a_loss_that_is_off_prepares_nothing() -> None:
    objective = toys.make(
        {"by-half": AtATime, "noted": Noted}, configs={"by-half": AtATime.Config(share=0.5, stop_after=3)}
    )
    times = toys.draw(objective).times[IMAGE]
    Noted.steps.clear()
    for number in (2, 3):
        objective(toys.inputs(), toys.draw(objective), number)
    assert torch.equal(Noted.steps[0].times[IMAGE], 0.5 * times)
    assert torch.equal(Noted.steps[1].times[IMAGE], times)


def test_while_a_step_is_prepared_there_is_no_answer_yet() -> None:
    class TooEarly(Square):
        def prepare(self, step: Step) -> Step:
            assert step.denoised
            return step

    with pytest.raises(AssertionError, match=r"after `Loss\.prepare`"):
        step_of(toys.make({"early": TooEarly, "noted": Noted}))


# --------------------------------------------------------------------------------------------------------- drawing


def test_every_loss_draws_for_itself_and_otherwise_while_it_prepares() -> None:
    objective = toys.make({"one": Drawing, "two": Drawing})
    losses = objective(toys.inputs(), toys.draw(objective))
    assert len({losses[name].item() for name in ("one.forward", "two.forward", "two.prepared")}) == 3
    assert torch.equal(losses["one.prepared"], losses["two.prepared"])  # both read what the second has drawn
    again = objective(toys.inputs(), toys.draw(objective))
    assert {name: value.item() for name, value in again.items()} == {n: v.item() for n, v in losses.items()}


def test_what_a_loss_draws_does_not_depend_on_which_others_there_are() -> None:
    both, alone = toys.make({"one": Drawing, "two": Drawing}), toys.make({"two": Drawing})
    losses = [objective(toys.inputs(), toys.draw(objective)) for objective in (both, alone)]
    for name in ("two.prepared", "two.forward"):
        assert torch.equal(losses[0][name], losses[1][name])


def test_two_shares_of_a_batch_draw_as_the_whole_batch() -> None:
    objective = toys.make({"one": Drawing, "two": Drawing}, tosses=3)
    whole, parts = toys.draw(objective), (slice(0, 2), slice(2, 4))
    losses = objective(toys.inputs(), whole)
    shares = [
        objective(toys.inputs(range(rows.start, rows.stop)), whole.map(lambda tensor, rows=rows: tensor[rows]))
        for rows in parts
    ]
    assert len(losses) > 5
    for name, value in losses.items():
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, value)


def test_a_network_that_wants_random_numbers_gets_those_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = toys.make({"noted": Noted}, tosses=3)
    toss = step_of(objective).condition.context["toss"]
    assert toss.shape == (4, 3)
    assert 0 <= toss.min() < toss.max() < 1
    Noted.steps.clear()
    objective(toys.inputs(range(2, 4)), toys.draw(objective).map(lambda tensor: tensor[2:4]))
    assert torch.equal(Noted.steps[0].condition.context["toss"], toss[2:])
    Noted.steps.clear()
    objective(toys.inputs(range(4, 8)), toys.draw(objective))
    assert not torch.equal(Noted.steps[0].condition.context["toss"], toss)


# ------------------------------------------------------------------------------------------------------- in the total


def test_a_loss_may_take_the_place_of_the_denoising_loss_while_it_is_on() -> None:
    config = Instead.Config(weight=3.0, stop_after=5)
    objective = toys.make({"instead": Instead}, configs={"instead": config})
    on, off = (objective(toys.inputs(), toys.draw(objective), number) for number in (4, 5))
    assert on.keys() == {"instead.square", "loss"}
    torch.testing.assert_close(on["loss"], 3.0 * on["instead.square"])
    assert off.keys() == {IMAGE, "loss"}
    torch.testing.assert_close(off["loss"], off[IMAGE])


def test_a_loss_knows_what_the_denoising_loss_of_each_token_counts() -> None:
    objective = toys.make({"noted": Noted}, stream_weights={IMAGE: 4.0})
    step = step_of(objective)
    torch.testing.assert_close(step.denoising_weights[IMAGE], 4.0 * (0.5 + step.times[IMAGE]))


def test_terms_are_numbers_of_samples_or_one_number() -> None:
    class Scalar(Square):
        def forward(self, step: Step) -> dict[str, Tensor]:
            return {name: term.mean() for name, term in super().forward(step).items()}

    objective = toys.make({"each": Square, "all": Scalar})
    losses = objective(toys.inputs(), toys.draw(objective))
    torch.testing.assert_close(losses["each.square"], losses["all.square"])


@pytest.mark.parametrize("shape", [(4, 1), (1,), (3,), (1, 8, 8)])
def test_terms_of_other_shapes_are_refused_in_one_sentence(shape: tuple[int, ...]) -> None:
    class Odd(Square):
        def forward(self, step: Step) -> dict[str, Tensor]:
            return {"term": torch.zeros(shape) + step.denoised.clean[IMAGE].sum()}

    objective = toys.make({"odd": Odd})
    with pytest.raises(UserError) as caught:
        objective(toys.inputs(), toys.draw(objective))
    assert str(caught.value).startswith(f"loss odd gave the term 'term' as of shape {shape}, and a term is ")


# ------------------------------------------------------------------------------------------------------------ encoders


def encoders() -> dict[str, ToyEncoder]:
    spec = FeatureSpec(tokens=(16, 5), grid=(4, 4), pooled=7)
    return {name: ToyEncoder(toys.SHAPE, spec, seed) for seed, name in enumerate(("first", "second"))}


def test_features_are_those_of_the_encoder_that_is_named_and_the_first_by_default() -> None:
    sources = encoders()
    step = step_of(toys.make({"noted": Noted}, sources=sources))
    step = attrs.evolve(step, reads_features=True)
    for name, source in sources.items():
        assert torch.equal(step.features(name).tokens, source(step.images).tokens)
        assert torch.equal(step.real(name).tokens, source.perceive(step.images).tokens)
        assert torch.equal(step.generated(name).tokens, source.perceive(step.predicted).tokens)
        assert not step.real(name).tokens.requires_grad
        assert step.generated(name).tokens.requires_grad
    assert step.features() is step.features("first")
    assert step.real() is step.real("first")
    assert step.generated() is step.generated("first")
    assert not torch.equal(step.features("first").tokens, step.features("second").tokens)


def test_predicted_images_are_decoded_once_for_all_losses_that_read_their_features() -> None:
    step = attrs.evolve(step_of(toys.make({"noted": Noted}, sources=encoders())), reads_features=True)
    decode = mock.Mock(wraps=step.codec.decode)
    with mock.patch.object(step.codec, "decode", decode):
        assert step.generated() is step.generated()
    assert decode.call_count == 1


def test_a_loss_that_reads_features_and_does_not_declare_it_is_named() -> None:
    class Peeking(Square):
        def forward(self, step: Step) -> dict[str, Tensor]:
            return {"peek": step.features().tokens.mean((1, 2))}

    class Declared(Peeking):
        needs_features: ClassVar[bool] = True

    class Early(Square):
        def prepare(self, step: Step) -> Step:
            assert step.features()
            return step

    for name, loss in (("peeking", Peeking), ("early", Early)):
        objective = toys.make({"declared": Declared, name: loss}, sources=encoders())
        with pytest.raises(UserError, match=f"loss {name} reads encoder features and does not declare needs_features"):
            objective(toys.inputs(), toys.draw(objective))
    honest = toys.make({"declared": Declared}, sources=encoders())
    assert "declared.peek" in honest(toys.inputs(), toys.draw(honest))
