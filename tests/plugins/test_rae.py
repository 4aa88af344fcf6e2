"""Codec rae: its tokens are those of the feature source, its decoder computes as the library's of MAE does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_encoders import PATCH, SIDE, WIDTH
from tiny_rae import IMAGE, SIZES, write_rae
from transformers import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder

from vco.api import CodecSetting, FeatureSetting, UserError
from vco.cli import main_run
from vco_plugins.codecs.rae import EPS, KNOWN, RAE, WEIGHTS
from vco_plugins.features.dinov2 import DINOv2

GRID = SIDE // PATCH
NAMES = {
    "q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip
"""Names of transformers -> those of the files."""


def _codec(folder: Path, **options: Any) -> RAE:
    config = RAE.Config(weights=str(folder / "rae"), encoder=str(folder / "encoder"), **options)
    codec = RAE(config, CodecSetting(image_shape=IMAGE))
    codec.load()
    return codec


def _images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, *IMAGE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_the_stream_is_the_encoders_tokens_standardised_at_each_place(tmp_path: Path) -> None:
    codec = _codec(write_rae(tmp_path))
    source = DINOv2(
        DINOv2.Config(weights=str(tmp_path / "encoder"), resolution=SIDE), FeatureSetting(image_shape=IMAGE)
    )
    source.load()
    tokens = source(_images()).tokens.transpose(1, 2).unflatten(2, (GRID, GRID))
    file = load_file(tmp_path / "rae" / WEIGHTS)
    expected = (tokens - file["_latents_mean"]) / (file["_latents_std"] + EPS)
    torch.testing.assert_close(codec.encode(_images(), None), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(codec.draw(codec.posterior(_images()), None), codec.encode(_images(), None))


@torch.no_grad()
def test_the_decoder_computes_as_that_of_mae_in_transformers(tmp_path: Path) -> None:
    codec = _codec(write_rae(tmp_path))
    decoders = {name: value for name, value in SIZES.items() if name.startswith("decoder_")}
    sizes = ViTMAEConfig(hidden_size=WIDTH, patch_size=SIZES["patch_size"], layer_norm_eps=1e-12, **decoders)
    library = ViTMAEDecoder(sizes, num_patches=GRID**2)
    ours = codec.decoder.state_dict()
    bias = ours["decoder_embed.bias"]
    codec.decoder.trainable_cls_token.copy_(bias[None, None])  # which the library makes of a token of zeros
    theirs = {"mask_token": torch.zeros(1, 1, SIZES["decoder_hidden_size"])}
    for name in library.state_dict().keys() - theirs.keys():
        mine = name
        for word, other in NAMES.items():
            mine = mine.replace(word, other)
        theirs[name] = ours[mine]
    library.load_state_dict(theirs)
    tokens = torch.randn(2, GRID**2, WIDTH, generator=torch.Generator().manual_seed(2))
    with_class = torch.cat([torch.zeros(2, 1, WIDTH), tokens], dim=1)
    found = library.eval()(with_class, ids_restore=torch.arange(GRID**2).expand(2, -1)).logits
    patch = SIZES["patch_size"]
    pixels = found.unflatten(1, (GRID, GRID)).unflatten(3, (patch, patch, 3))
    expected = torch.einsum("bijrsc->bcirjs", pixels).reshape(2, *IMAGE)
    torch.testing.assert_close(codec.decoder(tokens), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_decoded_images_have_the_range_of_images_and_chunks_change_nothing(tmp_path: Path) -> None:
    whole, parts = (_codec(write_rae(tmp_path), chunk=chunk) for chunk in (5, 2))
    stream = whole.encode(_images(5), None)
    torch.testing.assert_close(parts.encode(_images(5), None), stream, rtol=1e-5, atol=1e-5)
    images = whole.decode(stream)
    torch.testing.assert_close(parts.decode(stream), images, rtol=1e-4, atol=1e-4)
    file = load_file(tmp_path / "rae" / WEIGHTS)
    tokens = (stream * (file["_latents_std"] + EPS) + file["_latents_mean"]).flatten(2).transpose(1, 2)
    pixels = whole.decoder(tokens) * file["encoder_std"] + file["encoder_mean"]
    torch.testing.assert_close(images, pixels * 2 - 1, rtol=1e-4, atol=1e-4)


def test_published_sizes_are_known_without_files() -> None:
    codec = RAE(RAE.Config(), CodecSetting(image_shape=(3, 256, 256)))
    assert codec.spec.shape == codec.moments_shape == (768, 16, 16)
    assert codec.noise_shape is None
    assert {config.side for config in KNOWN.values()} == {16}


def _without(folder: Path, name: str) -> None:
    file = folder / "rae" / WEIGHTS
    save_file({key: tensor for key, tensor in load_file(file).items() if key != name}, file)


def _says(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: _says(folder / "rae", encoder_type="mae"), "its encoder is a mae, and only a dinov2 is read"),
        (lambda folder: _says(folder / "rae", _class_name="AutoencoderKL"), "only AutoencoderRAE is read"),
        (lambda folder: _says(folder / "rae", patch_size=8), "makes images of 3x32x32, and these are 3x64x64"),
        (lambda folder: _without(folder, "decoder.decoder_norm.bias"), "decoder_norm.bias is missing; get them anew"),
        (lambda folder: _without(folder, "_latents_mean"), "cannot be loaded ('_latents_mean'); get them anew"),
        (
            lambda folder: _says(folder / "encoder", model_type="dinov2"),
            "wants a dinov2_with_registers, 32 wide, of 8 pixels",
        ),
        (lambda folder: (folder / "encoder" / "model.safetensors").unlink(), "(from --.encoder) has no model.safet"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, change: Any, message: str) -> None:
    write_rae(tmp_path)
    change(tmp_path)
    with pytest.raises(UserError) as caught:
        _codec(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_trains_on_the_tokens(tmp_path: Path) -> None:
    write_rae(tmp_path)
    draws = np.random.default_rng(0)
    for number in range(24):
        place = tmp_path / "images" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (IMAGE[1], IMAGE[2], 3), np.uint8)).save(place / f"{number}.png")
    options = f"""--data image-folder --data.root {tmp_path}/images --data.size {IMAGE[1]} --codec rae
        --codec.weights {tmp_path}/rae --codec.encoder {tmp_path}/encoder --backbone sit --backbone.width 16
        --backbone.depth 2 --backbone.heads 2 --backbone.patch 1 --adapter none --loss none --guidance cfg --metric none
        --features none --train.steps 1 --train.workers 0 --train.batch-size 4 --train.samples-per-class 0
        --sample.steps 1 --sample.grid-rows 1"""
    assert main_run([*options.split(), "--output-dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "samples" / "step-00000001.png").exists()
