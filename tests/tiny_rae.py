"""A tiny random representation autoencoder in the folder format of diffusers, and its encoder."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_encoders import CASES, PATCH, SIDE, WIDTH

from vco_plugins.token_decoder import RAEConfig, TokenDecoder

ENCODER = next(case for case in CASES if case.id == "dinov2-registers")
SIZES: dict[str, Any] = {
    "encoder_hidden_size": WIDTH,
    "encoder_patch_size": PATCH,
    "encoder_input_size": SIDE,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "patch_size": 16,
}
IMAGE = (3, SIDE // PATCH * SIZES["patch_size"], SIDE // PATCH * SIZES["patch_size"])
"""Shape of its images."""


def write_rae(folder: Path, **changes: Any) -> Path:
    """Writes the folders `rae` and `encoder` into a folder; returns that."""
    content = {"_class_name": "AutoencoderRAE", **SIZES, **changes}
    draws = torch.Generator().manual_seed(0)
    decoder = TokenDecoder(RAEConfig.of_file(content))
    tensors = {
        f"decoder.{name}": torch.randn(x.shape, generator=draws) * 0.2 for name, x in decoder.state_dict().items()
    }
    shape = (WIDTH, SIDE // PATCH, SIDE // PATCH)
    tensors |= {"_latents_mean": torch.randn(shape, generator=draws) * 0.1}
    tensors |= {"_latents_std": torch.rand(shape, generator=draws) + 0.5}
    for name, values in zip(("mean", "std"), ENCODER.statistics, strict=True):
        tensors[f"encoder_{name}"] = torch.tensor(values).reshape(1, 3, 1, 1)
    tensors["encoder.model.layernorm.bias"] = torch.zeros(WIDTH)  # a tensor of the encoder, which is not read
    for name in ("rae", "encoder"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "rae" / "config.json").write_text(json.dumps(content))
    save_file(tensors, folder / "rae" / "diffusion_pytorch_model.safetensors")
    ENCODER.save(folder / "encoder")
    return folder
