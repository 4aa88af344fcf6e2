from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vco.api import FEATURES, PIXELS, Features, Streams
from vco.data import to_float
from vco.errors import UserError
from vco.objective import Draw, Objective
from vco.randomness import noise

SAMPLES = 20


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    training = tiny.prepare(tmp_path_factory.mktemp("run"), "--adapter", "rms", "--guidance.drop", "0.5")
    torch.manual_seed(0)
    for parameter in training.parameters.values():  # heads start at zero, which would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    return training


def batch(training: tiny.Training, step: int = 0) -> tuple[Tensor, Tensor, Draw, Streams]:
    """Everything that a step hands to the objective."""
    index, _ = training.order.batch(step)
    labels = training.order.labels[index]
    images = to_float(torch.stack([training.images.image(i, None) for i in index.tolist()]))
    draw = training.objective.draw(labels, seed=0, step=step)
    return images, labels, draw, noise(training.objective.specs, range(SAMPLES), 0, "noise")


def share(rows: slice, images: Tensor, labels: Tensor, draw: Draw, eps: Streams) -> tuple[Any, ...]:
    return (
        images[rows],
        labels[rows],
        draw.map(lambda t: t[rows]),
        {stream: value[rows] for stream, value in eps.items()},
    )


def test_the_total_is_the_weighted_sum_of_what_is_logged(training: tiny.Training) -> None:
    losses = training.objective(*batch(training))
    weights = {"pixels": 1.0, "features": 0.1, "hybrid": training.objective.losses["hybrid"].config.weight}
    assert losses.keys() == {"loss", *weights}
    torch.testing.assert_close(losses["loss"], sum(losses[name] * weight for name, weight in weights.items()))


def test_equal_shares_average_to_the_whole_batch_although_hidden_samples_are_left_out(training: tiny.Training) -> None:
    whole = batch(training)
    hidden = ~whole[2].condition.supervised[FEATURES]
    assert hidden[:10].sum() != hidden[10:].sum(), "both shares hide equally many: this would show nothing"
    losses = training.objective(*whole)
    shares = [training.objective(*share(slice(start, start + 10), *whole)) for start in (0, 10)]
    for name, value in losses.items():
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, value)


def test_the_feature_loss_is_the_mean_over_the_samples_that_see_the_features(training: tiny.Training) -> None:
    images, labels, draw, eps = batch(training)
    kept = draw.condition.supervised[FEATURES]
    plain = replace(draw, weights={stream: torch.ones(SAMPLES) for stream in draw.weights})
    each = [
        training.objective(*share(slice(i, i + 1), images, labels, plain, eps))[FEATURES]
        for i in range(SAMPLES)
        if kept[i]
    ]
    torch.testing.assert_close(training.objective(images, labels, draw, eps)[FEATURES], torch.stack(each).mean())


def test_a_batch_in_which_all_features_are_hidden_has_no_feature_loss(training: tiny.Training) -> None:
    images, labels, _, eps = batch(training)
    all_hidden = _draw_with(training.objective, labels, drop=1.0)
    assert training.objective(images, labels, all_hidden, eps)[FEATURES] == 0.0


def _draw_with(objective: Objective, labels: Tensor, drop: float) -> Draw:
    guidance = objective.guidance
    former = guidance.config
    guidance.config = type(former)(drop=drop)
    try:
        return objective.draw(labels, seed=0, step=0)
    finally:
        guidance.config = former


def test_times_and_conditions_are_a_function_of_seed_and_step(training: tiny.Training) -> None:
    labels = batch(training)[1]
    draws = [training.objective.draw(labels, seed=seed, step=step) for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3))]
    times = [draw.times[PIXELS].tolist() for draw in draws]
    dropped = [draw.condition.labels.tolist() for draw in draws]
    assert (times[0], dropped[0]) == (times[1], dropped[1])
    assert times[0] != times[2] != times[3] != times[0]
    assert dropped[0] != dropped[2] != dropped[3] != dropped[0]


def test_the_encoder_sees_the_clean_images_once_a_step(
    training: tiny.Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = training.objective.source
    assert source is not None
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
    assert sum(torch.equal(images, given[0]) for images in seen) == 1


def test_a_loss_that_aligns_predictions_is_refused_in_features_without_gradients(
    training: tiny.Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.objective.source, "differentiable", False)
    with pytest.raises(UserError, match="needs gradients through --features"):
        training.objective(*batch(training))


def test_the_frozen_encoder_is_in_no_state_and_among_no_parameters(training: tiny.Training) -> None:
    objective = training.objective
    assert objective.source is not None
    frozen = {tensor.data_ptr() for tensor in objective.source.state_dict().values()}
    assert frozen.isdisjoint(tensor.data_ptr() for tensor in objective.state_dict().values())
    assert objective.source not in set(objective.modules())


def test_a_copy_with_other_weights_shares_the_encoder_and_leaves_the_original_alone(training: tiny.Training) -> None:
    objective = training.objective
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    zeros: Mapping[str, Tensor] = {name: torch.zeros_like(value) for name, value in before.items()}
    twin = objective.with_weights(zeros)
    assert twin.source is objective.source
    assert all(not value.any() for value in twin.state_dict().values())
    assert all(not parameter.requires_grad for parameter in twin.parameters())
    tiny.assert_same(dict(objective.state_dict()), before)
    assert all(parameter.requires_grad for parameter in objective.parameters())


def test_a_run_without_feature_stream_and_losses_has_no_encoder(tmp_path: tiny.Path) -> None:
    alone = ("--backbone", "jit", "--adapter", "none", "--guidance", "cfg", "--loss", "none")
    training = tiny.prepare(tmp_path, *alone)
    assert training.objective.source is None
    assert training.objective(*batch(training)).keys() == {"loss", PIXELS}


def test_inputs_are_not_modified(training: tiny.Training) -> None:
    given = batch(training)
    copies = [value.clone() for value in (given[0], given[1], *given[3].values(), *given[2].times.values())]
    training.objective(*given)
    now = (given[0], given[1], *given[3].values(), *given[2].times.values())
    assert all(torch.equal(a, b) for a, b in zip(copies, now, strict=True))
