"""The two networks for photographs of clothes that ship with the package."""

import json
from importlib.resources import files
from typing import Any

import pytest
import torch

from vco.api import DataSetting, FeatureSetting
from vco.cli import main_run
from vco.content import of_weights
from vco.data.reader import to_float
from vco_plugins.data.clothing import Clothing32
from vco_plugins.features.clothing_cnn import ClothingCNN
from vco_plugins.features.clothing_vit import ClothingViT

BOTH = pytest.mark.parametrize("source", [ClothingViT, ClothingCNN])
FOLDER = files("vco_plugins").joinpath("weights")


def loaded(source: type[Any], **options: Any) -> Any:
    encoder = source(source.Config(**options), FeatureSetting(image_shape=(3, 32, 32)))
    encoder.check()
    encoder.load()
    return encoder


@BOTH
def test_it_knows_as_much_as_is_said_of_it(source: type[Any]) -> None:
    encoder, images = loaded(source), Clothing32(Clothing32.Config(), DataSetting()).test()
    pictures = to_float(torch.stack([images.image(i, None) for i in range(len(images))]))
    with torch.no_grad():
        told = encoder.perceive(pictures).logits.argmax(1)
    accuracy = (told == images.labels).float().mean().item()
    record = json.loads(FOLDER.joinpath(source.shipped, "training.json").read_text())
    assert record["held_out"]["accuracy"] == pytest.approx(accuracy, abs=0.003)  # 1 of 490, for other rounding
    assert f"{record['held_out']['accuracy']:.1%}".replace("%", " %") in " ".join((source.__doc__ or "").split())
    assert record["weights"] == of_weights(encoder)


@BOTH
def test_its_files_are_small(source: type[Any]) -> None:
    sizes = [len(file.read_bytes()) for file in FOLDER.joinpath(source.shipped).iterdir()]
    assert sum(sizes) < 1_000_000


def test_the_encoder_has_as_many_numbers_as_an_image_on_a_grid_of_patches() -> None:
    tokens, width = loaded(ClothingViT).spec.tokens
    assert tokens * width == 3 * 32 * 32
    assert loaded(ClothingViT).spec.grid == (8, 8)


def test_the_two_are_different_networks_and_each_has_a_control() -> None:
    sources = [loaded(source, **more) for source in (ClothingViT, ClothingCNN) for more in ({}, {"weights": "random"})]
    assert len({of_weights(source) for source in sources}) == 4
    assert [source.spec.remark for source in sources] == ["", "random weights"] * 2
    shapes = [{name: tensor.shape for name, tensor in source.state_dict().items()} for source in sources]
    assert shapes[0] == shapes[1]
    assert shapes[2] == shapes[3]


@BOTH
def test_gradient_reaches_the_pixels(source: type[Any]) -> None:
    images = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    loaded(source)(images).tokens[..., 0].square().sum().backward()
    assert images.grad is not None
    assert images.grad.ne(0).float().mean() > 0.99


def test_the_data_set_chooses_the_preset_of_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run(["--data", "clothing32", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "preset  clothing32" in said
    assert "features  clothing-vit" in said
    assert "fd (clothing-cnn)" in said
