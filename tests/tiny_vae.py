"""A tiny random autoencoder in the folder format of diffusers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vco_plugins.autoencoder import Autoencoder, AutoencoderConfig

SIZES: dict[str, Any] = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4}


def write_vae(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Writes the folder; a latent stands for 4x4 pixels. Returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"_class_name": "AutoencoderKL", **SIZES, **changes}
    (folder / "config.json").write_text(json.dumps(content))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Autoencoder(AutoencoderConfig.of_file(content))
    save_file(network.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    return folder
