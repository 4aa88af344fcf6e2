"""SiT and what REG and ReDi add to it, against the published networks."""

import pytest
import torch
from parity.goldens import assert_close
from parity.latent_goldens import load_latent
from parity.sit_goldens import load_sit, streams_of, tokens_of

from vco.api import FEATURES, IMAGE, Condition
from vco_plugins.layers import CLASS_TOKEN, mlp


@torch.no_grad()
def test_sit_predicts_what_the_published_code_predicts() -> None:
    golden = load_latent("sit_forward")
    backbone, t = load_sit(golden), 1 - golden.inputs["t"]  # theirs runs from data to noise
    condition = Condition(labels=golden.inputs["y"])
    denoised = backbone({IMAGE: golden.inputs["x"]}, {IMAGE: t}, condition, taps=(1, 2, 3))
    assert_close(-denoised.velocity[IMAGE], golden.outputs["v"])
    for number in (1, 2, 3):
        assert_close(denoised.taps[number].tokens, golden.outputs[f"block{number}"])
    assert_close(backbone.positions[None], golden.outputs["pos_embed"])
    assert_close(backbone.conditioning.time(golden.inputs["t"]), golden.outputs["time_embedding"])
    assert_close(backbone.conditioning.label(golden.inputs["y"]), golden.outputs["label_embedding"])
    assert_close(backbone._embedded({IMAGE: golden.inputs["x"]}), golden.outputs["tokens0"])  # pyright: ignore[reportPrivateUsage]
    projector = mlp(32, 32, 32, 24)
    projector.load_state_dict(golden.part_of_weights("projectors.0."))
    assert_close(projector(denoised.taps[golden.config["encoder_depth"]].tokens), golden.outputs["projected"])


@pytest.mark.parametrize("name", ["redi_forward", "redi_forward_learn_sigma"])
@torch.no_grad()
def test_features_are_channels_of_the_patches_as_in_redi(name: str) -> None:
    golden = load_latent(name)
    t, condition = golden.inputs["t"], Condition(labels=golden.inputs["y"])
    velocity = load_sit(golden)(streams_of(golden), {IMAGE: t, FEATURES: t}, condition).velocity
    assert_close(velocity[IMAGE], golden.outputs["v"])
    assert_close(velocity[FEATURES], tokens_of(golden.outputs["v_feature"]))


@torch.no_grad()
def test_a_class_token_stands_in_front_of_the_patches_as_in_reg() -> None:
    golden = load_latent("reg_forward")
    backbone, t = load_sit(golden), 1 - golden.inputs["t"]
    condition, depth = Condition(labels=golden.inputs["y"]), golden.config["encoder_depth"]
    denoised = backbone(streams_of(golden), {IMAGE: t, CLASS_TOKEN: t}, condition, taps=(depth,))
    assert_close(-denoised.velocity[IMAGE], golden.outputs["v"])
    assert_close(-denoised.velocity[CLASS_TOKEN][:, 0], golden.outputs["v_cls"])
    assert_close(backbone.positions[None], golden.outputs["pos_embed"])
    assert_close(backbone._embedded(streams_of(golden)), golden.outputs["tokens0"])  # pyright: ignore[reportPrivateUsage]
    tap = denoised.taps[depth]
    projector = mlp(32, 32, 32, 24)
    projector.load_state_dict(golden.part_of_weights("projectors.0."))
    assert_close(projector(torch.cat([tap.others[CLASS_TOKEN], tap.tokens], dim=1)), golden.outputs["projected"])
