"""The codec `vae` against the published pipeline: images to moments to latents to images."""

import numpy as np
import pytest
import torch
from parity.goldens import LATENT, assert_close
from parity.latent_goldens import load_latent
from PIL import Image

from vco.api import CodecSetting
from vco.data.reader import to_float
from vco_plugins.codecs.vae import VAE


def _codec(folder: str, **options: object) -> VAE:
    codec = VAE(VAE.Config(weights=str(LATENT / folder), **options), CodecSetting(image_shape=(3, 32, 32)))  # pyright: ignore[reportArgumentType]
    codec.load()
    return codec


@pytest.mark.parametrize("folder", ["vae_tiny", "vae_tiny_2022_names"])
@torch.no_grad()
def test_images_go_to_latents_and_back_as_in_the_published_pipeline(folder: str) -> None:
    golden, codec = load_latent("vae_roundtrip"), _codec(folder)
    images = to_float(golden.inputs["image"])
    moments = codec.posterior(images)
    assert_close(moments, golden.outputs["moments"])
    assert_close(2 * moments[:, 4:].log(), golden.outputs["logvar"])
    latents = codec.encode(images, golden.inputs["posterior_noise"])
    assert_close(latents, golden.outputs["latent"])
    assert_close(codec.decode(latents), golden.outputs["decoded"])
    likely = codec.encode(images, None)
    assert_close(likely, golden.outputs["latent_mode"])
    assert_close(codec.decode(likely), golden.outputs["decoded_mode"])


@torch.no_grad()
def test_decoded_bytes_are_within_one_level_of_both_published_roundings() -> None:
    golden, codec = load_latent("vae_roundtrip"), _codec("vae_tiny")
    decoded = codec.decode(golden.outputs["latent"])
    published = {
        "uint8_repa": (255 * (decoded + 1) / 2).clamp(0, 255),
        "uint8_redi": (127.5 * decoded + 128).clamp(0, 255),
    }
    for name, levels in published.items():
        expected = golden.outputs[name].float()
        # a value that lies on an edge of two levels goes either way with the last bit
        assert ((levels.to(torch.uint8).float() - expected).abs() > 0).float().mean() < 1e-3
        assert (((decoded + 1) * 127.5).round().clamp(0, 255) - expected).abs().max() <= 1


@torch.no_grad()
def test_the_moments_of_the_published_folder_are_those_of_its_images() -> None:
    codec, store = _codec("vae_tiny"), LATENT / "latent_dataset"
    for number in range(3):
        picture = Image.open(store / f"images/00000/img{number:08}.png").convert("RGB")
        images = to_float(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])
        stored = torch.from_numpy(np.load(store / f"vae-sd/00000/img-mean-std-{number:08}.npy"))
        assert_close(codec.posterior(images), stored.reshape(1, 8, *stored.shape[-2:]))
