"""Encoders with random weights: the control that asks whether a method needs what an encoder knows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import CASES, PATCH, SIDE, WIDTH, Case

from vco.api import FeatureSetting, UserError
from vco.content import of_weights
from vco_plugins.features.digits_cnn import DigitsCNN
from vco_plugins.features.digits_vit import DigitsViT
from vco_plugins.features.timm_vit import TimmViT

ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
DIGITS = pytest.mark.parametrize("source", [DigitsViT, DigitsCNN])
Folders = Callable[[Case], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    written: dict[str, Path] = {}

    def folder(case: Case) -> Path:
        if case.id not in written:
            written[case.id] = tmp_path_factory.mktemp(case.id)
            case.save(written[case.id])
            (written[case.id] / case.weights).unlink()  # only the config file is read
        return written[case.id]

    return folder


def shapes(source: Any) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in source.state_dict().items()}


@ALL
def test_the_network_of_a_folder_gets_initial_weights_that_are_always_the_same(case: Case, folders: Folders) -> None:
    torch.manual_seed(1)
    one = case.load(f"random:{folders(case)}")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = case.load(f"random:{folders(case)}")
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's draws are touched
    assert of_weights(one) == of_weights(two)
    assert one.spec.remark == "random weights"
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = one(images).tokens
    assert tokens.shape == (2, (SIDE // PATCH) ** 2, WIDTH)
    assert torch.equal(tokens, two(images).tokens)
    assert (tokens[0] - tokens[1]).abs().amax(-1).gt(1e-3).all()  # what it sees depends on the image


@ALL
def test_no_file_of_weights_is_missed(case: Case, folders: Folders) -> None:
    source = case.construct(f"random:{folders(case)}")
    source.check()
    assert not source.is_here


@ALL
def test_without_a_folder_it_is_the_network_of_the_default_weights(case: Case) -> None:
    usual = case.source(case.source.Config(), FeatureSetting(image_shape=(3, 256, 256)))
    random = case.source(case.source.Config(weights="random"), FeatureSetting(image_shape=(3, 256, 256)))
    assert random.spec.tokens == usual.spec.tokens
    random.check()
    with torch.device("meta"):  # a large network, of which the sizes are enough
        network = random.parts(random.initial(None))
    assert len(network.blocks) == random.architecture.depth
    width = random.architecture.width
    assert {tuple(p.shape) for p in network.norm.parameters()} <= {(width,)}


@ALL
def test_a_folder_that_is_none_is_said(case: Case) -> None:
    with pytest.raises(UserError, match="no/such"):
        case.construct("random:no/such")


def test_timm_makes_one_of_any_name() -> None:
    config = TimmViT.Config(weights="random:test_vit", resolution=32)
    source = TimmViT(config, FeatureSetting(image_shape=(3, 32, 32)))
    source.load()
    assert source(torch.zeros(1, 3, 32, 32)).tokens.shape == (1, 4, 64)


@DIGITS
def test_the_embedded_networks_have_a_control_too(source: type[Any]) -> None:
    setting = FeatureSetting(image_shape=(1, 8, 8))
    known = source(source.Config(), setting)
    one, two = (source(source.Config(weights="random"), setting) for _ in range(2))
    for encoder in (known, one, two):
        encoder.load()
    assert of_weights(one) == of_weights(two) != of_weights(known)
    assert shapes(one) == shapes(known)
    assert one.spec.remark == "random weights"
    assert known.spec.remark == ""
