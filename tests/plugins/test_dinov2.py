"""DINOv2: both views against the library's own forward, on tiny random networks saved in the real format."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from vco.api import FeatureSetting, UserError
from vco_plugins.features.dinov2 import DINOv2

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 14,
    "image_size": 56,
}
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def saved(folder: Path, *, registers: bool = True) -> Path:
    """A tiny DINOv2 of random weights, final norm included, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    if registers:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=4, **SIZES))
    else:
        model = Dinov2Model(Dinov2Config(**SIZES))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("dinov2"))


def loaded(folder: Path, *, side: int = 56, resolution: int = 56, channels: int = 3) -> DINOv2:
    config = DINOv2.Config(weights=str(folder), resolution=resolution)
    source = DINOv2(config, FeatureSetting(image_shape=(channels, side, side)))
    source.load()
    return source


def some(batch: int, side: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1


def library_hidden(
    model: Dinov2Model | Dinov2WithRegistersModel, pixels: torch.Tensor, *, affine: bool
) -> torch.Tensor:
    """The library's last hidden state for pixels in [0, 1]; not affine: scale 1 and shift 0 in the norm."""
    if not affine:
        torch.nn.init.ones_(model.layernorm.weight)
        torch.nn.init.zeros_(model.layernorm.bias)
    with torch.no_grad():
        return model.eval()((pixels - MEAN) / STD).last_hidden_state


@settings(deadline=None, max_examples=6)
@given(batch=st.sampled_from([1, 2, 5, 32]), resolution=st.sampled_from([28, 56, 70]))
def test_forward_is_the_librarys_hidden_state_with_the_norms_affine_removed(
    folder: Path, batch: int, resolution: int
) -> None:
    images = some(batch, resolution)
    features = loaded(folder, side=resolution, resolution=resolution)(images)
    expected = library_hidden(
        Dinov2WithRegistersModel.from_pretrained(folder, dtype=torch.float32), images / 2 + 0.5, affine=False
    )
    # the same float32 operations in the same order, up to the last affine map
    torch.testing.assert_close(features.tokens, expected[:, 5:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.pooled, expected[:, 0], rtol=1e-5, atol=1e-5)


def test_forward_normalises_with_the_models_own_eps(tmp_path: Path) -> None:
    file = saved(tmp_path) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "layer_norm_eps": 0.5}))
    images = some(2, 56)
    model = Dinov2WithRegistersModel.from_pretrained(tmp_path)
    expected = library_hidden(model, images / 2 + 0.5, affine=False)
    torch.testing.assert_close(loaded(tmp_path)(images).tokens, expected[:, 5:], rtol=1e-5, atol=1e-5)


def test_a_network_without_registers_loses_only_its_class_token(tmp_path: Path) -> None:
    saved(tmp_path, registers=False)
    images = some(2, 56)
    features = loaded(tmp_path)(images)
    expected = library_hidden(Dinov2Model.from_pretrained(tmp_path), images / 2 + 0.5, affine=False)
    assert features.tokens.shape == (2, 16, 32)
    torch.testing.assert_close(features.tokens, expected[:, 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [28, 64, 100])
def test_forward_resizes_other_images_bicubically_in_unit_range(folder: Path, side: int) -> None:
    images = some(2, side)
    pixels = F.interpolate(images / 2 + 0.5, size=(56, 56), mode="bicubic", align_corners=False)
    features = loaded(folder, side=side)(images)
    torch.testing.assert_close(features.tokens, loaded(folder)(pixels * 2 - 1).tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [28, 64, 100])
def test_perceive_resizes_other_images_bilinearly(folder: Path, side: int) -> None:
    images = some(2, side)
    resized = F.interpolate(images, size=(56, 56), mode="bilinear", align_corners=False)
    features = loaded(folder, side=side).perceive(images)
    torch.testing.assert_close(features.tokens, loaded(folder).perceive(resized).tokens)


def test_forward_tokens_have_mean_0_and_variance_1(folder: Path) -> None:
    tokens = loaded(folder)(some(2, 56)).tokens
    assert tokens.mean(-1).abs().max() < 1e-5  # float32 rounding
    assert (tokens.var(-1, unbiased=False) - 1).abs().max() < 1e-3  # eps beside the variance


def test_half_precision_files_give_a_float32_network(tmp_path: Path) -> None:
    Dinov2WithRegistersModel.from_pretrained(saved(tmp_path / "full")).half().save_pretrained(tmp_path / "half")
    source = loaded(tmp_path / "half")
    assert {parameter.dtype for parameter in source.parameters()} == {torch.float32}


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path) / "model.safetensors"
    tensors = load_file(file)
    tensors["layernorm.weight"] = torch.ones(48)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="cannot be loaded"):
        loaded(tmp_path)
