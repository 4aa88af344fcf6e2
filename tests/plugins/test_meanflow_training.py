"""MeanFlow with real networks: derivatives, and steps of training."""

from typing import Any

import objectives
import pytest
import torch
from known_flows import CLASSES

from vco.api import FEATURES, IMAGE, BackboneSetting, Condition, Denoised, Streams, StreamSpec, Times, UserError
from vco_plugins.backbones.jit import JiT
from vco_plugins.backbones.jit_dual import JiTDual
from vco_plugins.losses.meanflow import Question, along_the_flow

# --------------------------------------------------------------------------------------------------------- derivatives


STREAMS = {IMAGE: StreamSpec(shape=(2, 4, 6)), FEATURES: StreamSpec(shape=(6, 5), grid=(2, 3))}


@pytest.mark.parametrize(("backbone", "names"), [(JiT, (IMAGE,)), (JiTDual, (IMAGE, FEATURES))])
def test_the_derivative_is_that_of_a_central_difference(backbone: Any, names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    sizes: Any = {"width": 16, "depth": 3, "heads": 2, "bottleneck": 4, "patch": 2, "context_start": 1}
    config = backbone.Config(**sizes, context_tokens=2)
    model = backbone(config, BackboneSetting(streams=STREAMS, num_classes=CLASSES, until=True)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def network(noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        with torch.no_grad():  # which does not switch forward-mode derivatives off
            clean = model(noisy, times, condition).clean
            divisor = {s: (1 - times[s]).clamp(min=0.05).view(-1, *[1] * (x.ndim - 1)) for s, x in clean.items()}
            return Denoised(velocity={s: (x - noisy[s]) / divisor[s] for s, x in clean.items()})

    draws = torch.Generator().manual_seed(1)
    shapes = {s: (3, *STREAMS[s].shape) for s in names}
    noisy, velocity = (
        {s: torch.randn(shape, generator=draws, dtype=torch.float64) for s, shape in shapes.items()} for _ in range(2)
    )
    times = dict.fromkeys(names, torch.tensor([0.1, 0.4, 0.97], dtype=torch.float64))
    rows = torch.tensor([False, True, False])
    condition = Condition(
        labels=torch.tensor([0, 1, CLASSES]),
        blocked={(IMAGE, FEATURES): rows} if FEATURES in names else {},
        until=dict.fromkeys(names, torch.tensor([0.8, 0.5, 0.99], dtype=torch.float64)),
    )

    def moved(by: float) -> Streams:
        later = {s: t + by for s, t in times.items()}
        return network({s: x + by * velocity[s] for s, x in noisy.items()}, later, condition).velocity

    slopes = along_the_flow(network, Question(noisy, times, condition), velocity)
    ahead, behind = moved(1e-6), moved(-1e-6)
    for stream, slope in slopes.items():
        difference = (ahead[stream] - behind[stream]) / 2e-6
        # the difference's own error: rounding of 1e-16 over 1e-6 and over 1 - t
        torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-6)
        assert slope.abs().amin(tuple(range(1, slope.ndim))).gt(0).all()


# ------------------------------------------------------------------------------------------------------------ training

both = pytest.mark.parametrize("streams", [objectives.ONE_STREAM, objectives.TWO_STREAMS])
LEARNT = ("--loss", "meanflow", "--solver", "meanflow")


@both
def test_it_takes_the_place_of_the_denoising_loss(streams: tuple[str, ...]) -> None:
    objective = objectives.make_run(*streams, *LEARNT).objective
    losses = objective(*objectives.batch(objective))
    assert losses.keys() == {"loss", *(f"meanflow.{stream}" for stream in objective.specs)}
    torch.testing.assert_close(losses["loss"], sum(value for name, value in losses.items() if name != "loss"))
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in objective.backbone.parameters())
    assert objective.metrics().keys() == {f"meanflow.velocity_error.{stream}" for stream in objective.specs}


@both
@pytest.mark.parametrize("options", [(), ("--loss.kappa", "0.5")])
def test_two_processes_share_what_one_has(streams: tuple[str, ...], options: tuple[str, ...]) -> None:
    objective = objectives.make_run(*streams, *LEARNT, *options).objective
    whole = objectives.batch(objective)
    losses = objective(*whole)
    shares = [objective(*objectives.share(slice(start, start + 10), *whole)) for start in (0, 10)]
    for name, value in losses.items():
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, value)


def test_features_that_are_hidden_are_not_learnt_and_the_stream_has_its_weight() -> None:
    weight = ("--train.stream-weights", "image=1,features=0.25", "--loss.floor", "1e-6")
    objective = objectives.make_run(*objectives.TWO_STREAMS, *LEARNT, *weight).objective
    losses = objective(*objectives.batch(objective))
    # every error is divided by itself, and the mean runs over the samples that see the features
    assert losses["meanflow.image"].item() == pytest.approx(1.0, abs=1e-3)
    assert losses["meanflow.features"].item() == pytest.approx(0.25, abs=1e-3)


def test_mixed_precision_gives_finite_losses_and_gradients() -> None:
    objective = objectives.make_run(*objectives.TWO_STREAMS, *LEARNT, "--loss.kappa", "0.5").objective
    whole = objectives.batch(objective)
    exact = objective(*whole)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective(*whole)
    losses["loss"].backward()
    torch.testing.assert_close(losses["loss"], exact, rtol=0.01, atol=0)  # about 1 always
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.backbone.parameters())


def test_a_backbone_that_cannot_be_told_where_a_step_goes_is_refused() -> None:
    with pytest.raises(UserError, match=r"meanflow.* tells the network where a step goes.*jit-joint"):
        objectives.make_run("--backbone", "jit-joint", *LEARNT)


def test_the_solver_needs_the_loss() -> None:
    with pytest.raises(UserError, match=r"mean velocities, which no loss of this run trains; add --loss .*meanflow"):
        objectives.make_run(*objectives.ONE_STREAM, "--loss", "none", "--solver", "meanflow")
