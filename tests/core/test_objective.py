from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import toys
from test_step import Noted
from tiny import batch, share
from torch import Tensor
from toy_plugin.losses import Square
from toy_plugin.networks import Doubled, Toy
from toy_plugin.sampling import Learned, Tokens

from vco.api import FEATURES, IMAGE, Condition, Denoised, Features, Times
from vco.errors import UserError
from vco.objective import Draw, Objective


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    training = tiny.prepare(tmp_path_factory.mktemp("run"), "--adapter", "rms", "--guidance.drop", "0.5")
    tiny.scramble(training)
    return training


def test_the_total_is_the_weighted_sum_of_what_is_logged(training: tiny.Training) -> None:
    losses = training.objective(*batch(training))
    weights = {"image": 1.0, "features": 0.1, "hybrid": training.objective.losses["hybrid"].config.weight}
    assert losses.keys() == {"loss", *weights}
    torch.testing.assert_close(losses["loss"], sum(losses[name] * weight for name, weight in weights.items()))


def test_equal_shares_average_to_the_whole_batch_although_hidden_samples_are_left_out(training: tiny.Training) -> None:
    whole = batch(training)
    hidden = ~whole[1].condition.supervised[FEATURES]
    assert hidden[:10].sum() != hidden[10:].sum(), "both shares hide equally many: this would show nothing"
    losses = training.objective(*whole)
    shares = [training.objective(*share(slice(start, start + 10), *whole)) for start in (0, 10)]
    for name, value in losses.items():
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, value)


def test_the_feature_loss_is_the_mean_over_the_samples_that_see_the_features(training: tiny.Training) -> None:
    inputs, draw = batch(training)
    kept = draw.condition.supervised[FEATURES]
    plain = replace(draw, denoising_weights={stream: torch.ones(tiny.BATCH) for stream in draw.denoising_weights})
    each = [training.objective(*share(slice(i, i + 1), inputs, plain))[FEATURES] for i in range(tiny.BATCH) if kept[i]]
    assert 0 < len(each) < tiny.BATCH
    torch.testing.assert_close(training.objective(inputs, draw)[FEATURES], torch.stack(each).mean())


def test_a_batch_in_which_all_features_are_hidden_has_no_feature_loss(training: tiny.Training) -> None:
    inputs, _ = batch(training)
    all_hidden = _draw_with(training.objective, inputs.labels, drop=1.0)
    assert training.objective(inputs, all_hidden)[FEATURES] == 0.0


def _draw_with(objective: Objective, labels: Tensor, drop: float) -> Draw:
    guidance = objective.guidance
    former = guidance.config
    guidance.config = type(former)(drop=drop)
    try:
        return objective.draw(labels, seed=0, step=0)
    finally:
        guidance.config = former


def test_times_and_conditions_are_a_function_of_seed_and_step(training: tiny.Training) -> None:
    labels = batch(training)[0].labels
    draws = [training.objective.draw(labels, seed=seed, step=step) for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3))]
    times = [draw.times[IMAGE].tolist() for draw in draws]
    dropped = [draw.condition.labels.tolist() for draw in draws]
    assert (times[0], dropped[0]) == (times[1], dropped[1])
    assert times[0] != times[2] != times[3] != times[0]
    assert dropped[0] != dropped[2] != dropped[3] != dropped[0]


def test_the_encoder_sees_the_clean_images_once_a_step(
    training: tiny.Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = training.objective.sources.values()
    seen: list[Tensor] = []
    forward = source.forward

    def counted(images: Tensor) -> Features:
        seen.append(images)
        return forward(images)

    monkeypatch.setattr(source, "forward", counted)
    given = batch(training)
    training.objective(*given)
    # the stream's view of the clean images, and the hybrid loss's view of the predicted ones; the clean ones' view of
    # the loss is the stream's
    assert sum(torch.equal(images, given[0].images) for images in seen) == 1


def test_a_loss_that_aligns_predictions_is_refused_in_features_without_gradients(
    training: tiny.Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = training.objective.sources.values()
    monkeypatch.setattr(source, "differentiable", False)
    with pytest.raises(UserError, match=r"needs gradients through the encoder digits-vit, .* choose other --features"):
        training.objective(*batch(training))


def test_the_frozen_encoder_is_in_no_state_and_among_no_parameters(training: tiny.Training) -> None:
    objective = training.objective
    (source,) = objective.sources.values()
    frozen = {tensor.data_ptr() for tensor in source.state_dict().values()}
    assert frozen
    assert frozen.isdisjoint(tensor.data_ptr() for tensor in objective.state_dict().values())
    assert set(objective.modules()).isdisjoint({source, objective.codec})


def test_a_copy_with_other_weights_shares_codec_and_encoders_and_leaves_the_original_alone(
    training: tiny.Training,
) -> None:
    objective = training.objective
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    zeros: Mapping[str, Tensor] = {name: torch.zeros_like(value) for name, value in before.items()}
    twin = objective.with_weights(zeros)
    assert twin.sources.keys() == objective.sources.keys()
    assert all(twin.sources[name] is source for name, source in objective.sources.items())
    assert twin.codec is objective.codec
    assert all(not value.any() for value in twin.state_dict().values())
    assert all(not parameter.requires_grad for parameter in twin.parameters())
    tiny.assert_same(dict(objective.state_dict()), before)
    assert all(parameter.requires_grad for parameter in objective.parameters())


def test_a_run_without_feature_stream_and_losses_has_no_encoder(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path, *tiny.ONE_STREAM)
    assert training.objective.sources == {}
    assert training.objective(*batch(training)).keys() == {"loss", IMAGE}


def test_inputs_are_not_modified(training: tiny.Training) -> None:
    inputs, draw = batch(training)

    def tensors() -> list[Tensor]:
        return [inputs.images, inputs.labels, *inputs.noise.values(), *draw.times.values(), draw.condition.labels]

    copies = [value.clone() for value in tensors()]
    training.objective(inputs, draw)
    assert all(torch.equal(a, b) for a, b in zip(copies, tensors(), strict=True))


# ------------------------------------------------------------------------------------------------------ times of tokens


def patches(image: Tensor) -> Tensor:
    """[b, 1, 8, 8] -> [b, 16, 4]: the pixels of each of 4 x 4 patches."""
    return torch.nn.functional.unfold(image, 2, stride=2).transpose(1, 2)


@pytest.mark.parametrize("velocity", [True, False])
def test_each_token_is_noised_and_weighted_by_its_own_time(velocity: bool) -> None:
    objective = toys.make(codec=toys.codec_of(noise_scale=2.0), velocity=velocity)
    inputs, drawn = toys.inputs(), toys.draw(objective)
    t = drawn.times[IMAGE]
    assert t.shape == (4, 16)
    losses = objective(inputs, drawn)

    clean, noise = patches(inputs.images), patches(inputs.noise[IMAGE])
    noisy = t[..., None] * clean + (1 - t[..., None]) * 2.0 * noise
    told = toys.network_of(objective).labels[drawn.condition.labels][:, None, None]
    answer = torch.tanh(0.5 * noisy + 0.3 * t[..., None] + told)
    error = answer - (clean - 2.0 * noise) if velocity else (answer - clean) / (1 - t[..., None]).clamp(min=0.05)
    expected = (error.square() * (0.5 + t)[..., None]).mean()  # the toy process counts a token 0.5 + t
    torch.testing.assert_close(losses[IMAGE], expected)
    torch.testing.assert_close(losses["loss"], expected)


def test_equal_times_of_all_tokens_are_the_time_of_the_sample() -> None:
    objective = toys.make({"square": Square})
    inputs, drawn = toys.inputs(), toys.draw(objective)
    t, weight = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    one = replace(drawn, times={IMAGE: t}, denoising_weights={IMAGE: weight})
    each = replace(drawn, times={IMAGE: t[:, None].repeat(1, 16)}, denoising_weights={IMAGE: weight[:, None]
                   .repeat(1, 16)})  # fmt: skip
    losses, of_tokens = objective(inputs, one), objective(inputs, each)
    for name, value in losses.items():
        torch.testing.assert_close(of_tokens[name], value)


def test_a_loss_counts_samples_by_the_mean_time_of_their_tokens() -> None:
    config = Square.Config(t_low=0.5)
    objective = toys.make({"square": Square}, configs={"square": config})
    drawn = toys.draw(objective, rows=6)
    inside = drawn.times[IMAGE].mean(1) >= 0.5
    assert 0 < inside.sum() < 6
    torch.testing.assert_close(drawn.loss_weights["square"], inside * 6.0 / inside.sum())


def test_samples_that_are_not_supervised_count_in_none_of_their_tokens() -> None:
    objective = toys.make()
    condition = objective.guidance.condition

    def partly(labels: Tensor, generator: torch.Generator) -> Condition:
        return replace(condition(labels, generator), supervised={IMAGE: labels == 0})

    objective.guidance.condition = partly
    drawn = toys.draw(objective)  # labels 0, 1, 2, 0
    t = drawn.times[IMAGE]
    expected = torch.tensor([2.0, 0.0, 0.0, 2.0])[:, None] * (0.5 + t)
    torch.testing.assert_close(drawn.denoising_weights[IMAGE], expected)


def test_a_network_that_knows_no_times_of_tokens_is_not_asked_about_any(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = toys.make()
    monkeypatch.setattr(Toy, "supports_token_times", False)
    with pytest.raises(UserError, match="gives every token a time of its own, which the backbone does not understand"):
        toys.draw(objective)
    assert toys.draw(toys.make(process=Learned)).times[IMAGE].shape == (4,)


# ------------------------------------------------------------------------------------------------- what a process adds


def test_the_terms_of_a_process_are_added_and_see_the_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def terms(self: Tokens, times: Times, denoised: Denoised) -> Mapping[str, Tensor]:
        return {"spread": times[IMAGE].std() + denoised.velocity[IMAGE].mean() + denoised.clean[IMAGE].mean()}

    plain = toys.make()
    before = plain(toys.inputs(), toys.draw(plain))
    monkeypatch.setattr(Tokens, "losses", terms)
    objective = toys.make()
    losses = objective(toys.inputs(), toys.draw(objective))
    assert losses.keys() == {IMAGE, "process.spread", "loss"}
    torch.testing.assert_close(losses["loss"], before["loss"] + losses["process.spread"])


# -------------------------------------------------------------------------------------------------------------- codec


def test_the_codec_makes_the_stream_and_decodes_what_losses_look_at() -> None:
    objective = toys.make({"noted": Noted}, codec=toys.codec_of(Doubled, noise_scale=3.0))
    noise = torch.randn(4, *toys.SHAPE, generator=torch.Generator().manual_seed(1))
    Noted.steps.clear()
    inputs = toys.inputs(encoding_noise=noise)
    objective(inputs, toys.draw(objective))
    (step,) = Noted.steps
    torch.testing.assert_close(step.clean[IMAGE], 2 * inputs.images + 0.1 * noise)
    assert torch.equal(step.target[IMAGE], step.clean[IMAGE])
    torch.testing.assert_close(step.predicted, step.denoised.clean[IMAGE] / 2)
    assert step.predicted.requires_grad
    t = step.times[IMAGE].view(4, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(step.noisy[IMAGE], t * step.clean[IMAGE] + (1 - t) * 3.0 * step.noise[IMAGE])


@pytest.mark.parametrize("answers", ["both", "neither"])
def test_a_network_that_answers_in_two_ways_or_in_none_is_one_sentence(
    answers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = toys.make()
    streams = {IMAGE: torch.zeros(4, *toys.SHAPE)} if answers == "both" else {}
    monkeypatch.setattr(objective.backbone, "forward", lambda *given: Denoised(clean=streams, velocity=streams))
    with pytest.raises(UserError, match="either the clean prediction or the velocity of the stream 'image'"):
        objective(toys.inputs(), toys.draw(objective))
