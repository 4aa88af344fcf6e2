"""Training losses and gradients of SiT with REPA, of ReDi and of REG against the published code."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from parity.given import (
    ENCODER,
    GivenTimes,
    GivenTokens,
    dropping,
    given_objective,
    gradient_norm,
    loss_setting,
    specs_of,
    step,
)
from parity.goldens import assert_close
from parity.latent_goldens import LatentGolden, load_latent
from parity.sit_goldens import load_sit, streams_of, tokens_of, translate
from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition, GuidanceSetting
from vco_plugins.alignment import negative_cosine
from vco_plugins.backbones.sit import SiT
from vco_plugins.guidance.representation import Representation
from vco_plugins.layers import CLASS_TOKEN
from vco_plugins.losses.repa import REPA


def _repa(golden: LatentGolden, backbone: SiT, source: GivenTokens, number: int = 0, **options: Any) -> REPA:
    """REPA with the projector of a file."""
    config = golden.config
    given = REPA.Config(block=config["encoder_depth"], hidden=config["projector_dim"], features=ENCODER, **options)
    streams = streams_of(golden)
    loss = REPA(given, loss_setting(backbone, streams, source, config["num_classes"]))
    loss.projector.load_state_dict(golden.part_of_weights(f"projectors.{number}."))
    return loss


def _drop(golden: LatentGolden) -> Any:
    return dropping(golden.inputs["drop"], specs_of(streams_of(golden)), golden.config["num_classes"])


def _check_gradients(golden: LatentGolden, backbone: SiT, count: int) -> None:
    named = {name.removeprefix("grad."): g for name, g in golden.outputs.items() if name.startswith("grad.")}
    expected = translate(named)
    assert len(expected) == count
    own = dict(backbone.named_parameters())
    for name, gradient in expected.items():
        found = own[name].grad
        assert found is not None
        assert_close(found, gradient)


def test_repa_on_velocities_trains_as_published() -> None:
    golden = load_latent("sit_training_loss")
    backbone, streams, t = load_sit(golden), streams_of(golden), 1 - golden.inputs["t"]
    source = GivenTokens(golden.inputs["target"])
    losses = {"repa": _repa(golden, backbone, source, weight=golden.config["proj_coeff"])}
    process = GivenTimes({IMAGE: t})
    model = given_objective(backbone, streams, guidance=_drop(golden), process=process, losses=losses, source=source)
    found, _ = step(model, streams, {IMAGE: golden.inputs["noise"]}, golden.inputs["y"])
    assert_close(found["loss"].reshape(1), golden.outputs["total"])
    assert_close(found["repa"].reshape(1), golden.outputs["projection"])
    assert_close(found[IMAGE].reshape(1), golden.outputs["denoising"].mean().reshape(1))
    assert_close(gradient_norm(model), golden.outputs["grad_norm"])
    _check_gradients(golden, backbone, 4)
    per_sample = _denoising(model, streams, {IMAGE: golden.inputs["noise"]}, {IMAGE: t}, golden)
    assert_close(per_sample[IMAGE], golden.outputs["denoising"])


def _denoising(
    model: Any, streams: Mapping[str, Tensor], noise: Mapping[str, Tensor], times: Mapping[str, Tensor], golden: Any
) -> dict[str, Tensor]:
    """Each stream's error of each sample, from the network's own velocity."""
    t = times[IMAGE].view(-1, 1, 1)
    noisy = {name: torch.lerp(noise[name], x, t.view(-1, *[1] * (x.ndim - 1))) for name, x in streams.items()}
    null = golden.config["num_classes"]
    condition = Condition(labels=golden.inputs["y"].masked_fill(golden.inputs["drop"], null))
    with torch.no_grad():
        velocity = model.network(noisy, dict(times), condition).velocity
    return {n: (v - (streams[n] - noise[n])).square().flatten(1).mean(1) for n, v in velocity.items()}


def test_several_encoders_are_aligned_with_equal_weight() -> None:
    golden = load_latent("sit_repa_taps")
    backbone, t = load_sit(golden), 1 - golden.inputs["t"]
    depth = golden.config["encoder_depth"]
    noisy = {IMAGE: golden.inputs["x"]}
    denoised = backbone(noisy, {IMAGE: t}, Condition(labels=golden.inputs["y"]), taps=(depth,))
    tap = denoised.taps[depth]
    tap.tokens.retain_grad()
    assert_close(-denoised.velocity[IMAGE].detach(), golden.outputs["v"])
    assert_close(tap.tokens.detach(), golden.outputs["tap"])
    terms: list[Tensor] = []
    losses: list[REPA] = []
    for number in range(2):
        source = GivenTokens(golden.inputs[f"target.{number}"])
        losses.append(_repa(golden, backbone, source, number))
        projected = losses[-1].project(tap)
        assert_close(projected.detach(), golden.outputs[f"projected.{number}"])
        terms.append(negative_cosine(projected, tap.of(losses[-1].prepared(source.tokens))))
    per_sample = torch.stack(terms).mean(0)
    assert_close(per_sample.detach(), golden.outputs["loss_per_sample"])
    assert_close(per_sample.mean().detach().reshape(1), golden.outputs["loss"])
    per_sample.mean().backward()
    assert tap.tokens.grad is not None
    assert_close(tap.tokens.grad, golden.outputs["grad.tap"])
    for number, layer in ((0, 4), (1, 0)):
        gradient = losses[number].projector[layer].weight.grad
        assert isinstance(gradient, Tensor)
        assert_close(gradient, golden.outputs[f"grad.projectors.{number}.{layer}.weight"])
    gradient = backbone.embed.weight.grad
    assert gradient is not None
    assert_close(gradient, golden.outputs["grad.x_embedder.proj.weight"])


@pytest.mark.parametrize("name", ["redi_training_loss", "redi_training_loss_dropped"])
def test_redi_trains_as_published(name: str) -> None:
    golden = load_latent(name)
    backbone, streams, t = load_sit(golden), streams_of(golden), golden.inputs["t"]
    specs, null = specs_of(streams), golden.config["num_classes"]
    noise = {IMAGE: golden.inputs["noise"], FEATURES: tokens_of(golden.inputs["noise_feature"])}
    process = GivenTimes({IMAGE: t, FEATURES: t})
    dropped = golden.config["dropped"]
    guidance: Any = _drop(golden)
    labels = golden.inputs["y"]
    if dropped:
        options = Representation.Config(drop=1.0, hides="clean", whole_batch=True)
        guidance = Representation(options, GuidanceSetting(streams=specs, num_classes=null))
        labels = labels.masked_fill(golden.inputs["drop"], null)  # representation guidance itself drops no label
    model = given_objective(backbone, streams, guidance=guidance, process=process)
    found, draw = step(model, streams, noise, labels)
    assert_close(found["loss"].reshape(1), golden.outputs["total"])
    assert_close(gradient_norm(model), golden.outputs["grad_norm"])
    _check_gradients(golden, backbone, 4)
    shown = streams | ({FEATURES: torch.zeros_like(streams[FEATURES])} if dropped else {})
    errors = _denoising(model, shown, noise, {IMAGE: t, FEATURES: t}, golden)
    assert_close(errors[IMAGE], golden.outputs["latent_term"])
    assert_close(errors[FEATURES], golden.outputs["feature_term"])
    weights = {name: weight for name, weight in draw.denoising_weights.items()}
    per_sample = sum(weights[name] * error for name, error in errors.items())
    assert isinstance(per_sample, Tensor)
    assert_close(per_sample, golden.outputs["loss_per_sample"])


def test_reg_trains_as_published() -> None:
    golden = load_latent("reg_training_loss")
    backbone, streams, t = load_sit(golden), streams_of(golden), 1 - golden.inputs["t"]
    target = golden.inputs["target"]
    source = GivenTokens(target[:, 1:], pooled=target[:, 0])
    repa = _repa(golden, backbone, source, weight=golden.config["proj_coeff"], class_token=True)
    noise = {IMAGE: golden.inputs["noise"], CLASS_TOKEN: golden.inputs["noise_cls"][:, None]}
    times = {IMAGE: t, CLASS_TOKEN: t}
    model = given_objective(
        backbone,
        streams,
        guidance=_drop(golden),
        process=GivenTimes(times),
        losses={"repa": repa},
        source=source,
        stream_weights={CLASS_TOKEN: golden.config["cls"]},
    )
    found, _ = step(model, streams, noise, golden.inputs["y"])
    assert_close(found["loss"].reshape(1), golden.outputs["total"])
    assert_close(found["repa"].reshape(1), golden.outputs["projection"])
    assert_close(gradient_norm(model), golden.outputs["grad_norm"])
    _check_gradients(golden, backbone, 4)
    errors = _denoising(model, streams, noise, times, golden)
    assert_close(errors[IMAGE], golden.outputs["denoising"])
    assert_close(errors[CLASS_TOKEN], golden.outputs["denoising_cls"])
