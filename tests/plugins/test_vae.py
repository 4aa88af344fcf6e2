import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vae import write_vae

from vco.api import CodecSetting, DataSetting, UserError
from vco.data.reader import to_float
from vco_plugins.codecs.vae import BUNDLED, VAE, WEIGHTS
from vco_plugins.data.digits import Digits

SETTING = CodecSetting(image_shape=(3, 16, 24))


def _codec(folder: Path, **options: Any) -> VAE:
    codec = VAE(VAE.Config(weights=str(folder), **options), SETTING)
    codec.load()
    return codec


def _images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_sizes_are_known_from_the_config_file_or_from_a_known_hub_id(tmp_path: Path) -> None:
    codec = VAE(VAE.Config(weights=str(write_vae(tmp_path, latent_channels=6))), SETTING)
    assert codec.spec.shape == codec.noise_shape == (6, 4, 6)
    assert codec.moments_shape == (12, 4, 6)
    known = VAE(VAE.Config(), CodecSetting(image_shape=(3, 256, 256)))
    assert known.spec.shape == (4, 32, 32)


@torch.no_grad()
def test_chunks_change_nothing_but_rounding(tmp_path: Path) -> None:
    whole, parts = (_codec(write_vae(tmp_path), chunk=chunk) for chunk in (5, 2))
    stream = whole.encode(_images(), None)
    torch.testing.assert_close(parts.encode(_images(), None), stream)
    torch.testing.assert_close(parts.decode(stream), whole.decode(stream))


@torch.no_grad()
def test_channels_are_shifted_and_scaled_as_the_files_say(tmp_path: Path) -> None:
    plain = _codec(write_vae(tmp_path / "plain", scaling_factor=1.0))
    raw = plain.encode(_images(), None)
    shifted = _codec(write_vae(tmp_path / "shifted", scaling_factor=0.5, shift_factor=0.25))
    torch.testing.assert_close(shifted.encode(_images(), None), (raw - 0.25) * 0.5)
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    expected = (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    of_file = _codec(write_vae(tmp_path / "each", scaling_factor=1.0, latents_mean=mean, latents_std=std))
    (tmp_path / "statistics.json").write_text(json.dumps({"mean": mean, "std": std}))
    given = _codec(tmp_path / "plain", statistics=str(tmp_path / "statistics.json"))
    for codec in (of_file, given):
        torch.testing.assert_close(codec.encode(_images(), None), expected)
        torch.testing.assert_close(codec.decode(expected), plain.decode(raw), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_posterior_is_sampled_unless_its_mode_is_asked_for(tmp_path: Path) -> None:
    codec = _codec(write_vae(tmp_path))
    mean, std = codec.posterior(_images()).chunk(2, dim=1)
    noise = torch.randn_like(mean)
    torch.testing.assert_close(codec.encode(_images(), noise), (mean + std * noise) * 0.18215)
    assert _codec(tmp_path, posterior="mode").noise_shape is None


@torch.no_grad()
def test_precision_is_that_of_the_option_also_under_autocast(tmp_path: Path) -> None:
    codec, half = _codec(write_vae(tmp_path)), _codec(tmp_path, precision="bfloat16")
    stream = codec.encode(_images(), None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(_images(), None), stream)
    other = half.encode(_images(), None)
    assert other.dtype == torch.float32
    assert 1e-4 < (other - stream).norm() / stream.norm() < 0.1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a folder with a file config\.json"):
        VAE(VAE.Config(weights=str(tmp_path / "nowhere")), SETTING)
    folder = write_vae(tmp_path / "vae")
    weights = load_file(folder / WEIGHTS)
    save_file({name: w for name, w in weights.items() if name != "decoder.conv_in.bias"}, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"decoder\.conv_in\.bias is missing; get them anew"):
        _codec(folder)
    save_file({**weights, "extra": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"hold extra, which its config\.json does not ask for"):
        _codec(folder)
    (folder / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"cannot be loaded"):
        _codec(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=rf"has no {WEIGHTS}; run `hf download"):
        VAE(VAE.Config(weights=str(folder)), SETTING).check()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "VQModel"}, "it is one of a network VQModel"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "AttnDownEncoderBlock2D are not built"),
        ({"act_fn": "relu"}, "act_fn is relu"),
        ({"latents_mean": [0.1]}, "latents_mean has 1 numbers for 4 channels"),
        ({"block_out_channels": None}, "TypeError"),
    ],
)
def test_other_networks_are_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = write_vae(tmp_path)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(UserError, match=sentence):
        VAE(VAE.Config(weights=str(folder)), SETTING)


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    config = VAE.Config(weights=str(write_vae(tmp_path)))
    with pytest.raises(UserError, match="reads images of 3 channels, and these have 1"):
        VAE(config, CodecSetting(image_shape=(1, 16, 16)))
    with pytest.raises(UserError, match="does not divide images of 18x18"):
        VAE(config, CodecSetting(image_shape=(3, 18, 18)))


def test_statistics_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "statistics.json").write_text('{"mean": [0, 0, 0, 0], "std": [1, 1, 0, 1]}')
    config = VAE.Config(weights=str(write_vae(tmp_path / "vae")), statistics=str(tmp_path / "statistics.json"))
    with pytest.raises(UserError, match="needs 4 numbers under mean, and as many above 0 under std"):
        VAE(config, SETTING)


@torch.no_grad()
def test_the_autoencoder_that_ships_keeps_the_digits() -> None:
    data = Digits(Digits.Config(), DataSetting())
    images = to_float(torch.stack([data.test().image(i, None) for i in range(50)]))
    codec = VAE(VAE.Config(weights="digits"), CodecSetting(image_shape=data.image_shape))
    codec.load()
    stream = codec.encode(images, torch.randn(50, 4, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert codec.spec.shape == (4, 4, 4)
    assert stream.std().item() == pytest.approx(1.0, abs=0.1)
    # pixels are 0.75 wide; 0.074 of all held-out ones without noise
    assert (codec.decode(stream) - images).square().mean().sqrt() < 0.15
    assert sum(path.stat().st_size for path in BUNDLED["digits"].iterdir()) < 400_000
