"""Latent Forcing's network against the published one."""

import pytest
import torch
from parity.goldens import assert_close
from parity.latent_forcing_goldens import load_latent_forcing, streams_of
from parity.latent_goldens import load_latent
from parity.sit_goldens import tokens_of

from vco.api import FEATURES, IMAGE, Condition


@pytest.mark.parametrize("name", ["latent_forcing_forward", "latent_forcing_forward_shared_head"])
@torch.no_grad()
def test_both_streams_are_predicted_as_by_the_published_code(name: str) -> None:
    golden = load_latent(name)
    backbone, blocks = load_latent_forcing(golden), golden.config["depth"]
    times = {IMAGE: golden.inputs["t_pixel"], FEATURES: golden.inputs["t_feature"]}
    seen: list[torch.Tensor] = []
    for block in list(backbone.blocks):
        block.register_forward_hook(lambda module, given, found: seen.append(found[IMAGE]))
    clean = backbone(streams_of(golden), times, Condition(labels=golden.inputs["y"])).clean
    assert_close(clean[IMAGE], golden.outputs["pixel"])
    assert_close(clean[FEATURES], tokens_of(golden.outputs["feature"]))
    assert len(seen) == blocks
    for number, tokens in enumerate(seen):
        assert_close(tokens[:, ::8], golden.outputs[f"block{number + 1}"])
