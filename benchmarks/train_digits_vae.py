"""Trains the autoencoder that ships as `--codec vae --codec.weights digits`, and says how good it is.

python benchmarks/train_digits_vae.py [--out FOLDER] [--steps 1500]

A few minutes on one CPU core. A latent stands for 2x2 pixels, so that the 8x8 digits become 4x4 places of 4 channels.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm import tqdm

from vco.api import DataSetting
from vco.data.reader import to_float
from vco_plugins.autoencoder import Autoencoder, AutoencoderConfig
from vco_plugins.codecs.vae import BUNDLED, CONFIG, WEIGHTS
from vco_plugins.data.digits import Digits

SIZES = {
    "_class_name": "AutoencoderKL",
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
}
KL = 3e-4
"""Weight of the divergence from a standard normal, per pixel."""
BATCH, RATE = 100, 2e-3


def main() -> None:
    """Trains, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUNDLED["digits"], help="folder to write")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps [1500]")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = Digits(Digits.Config(), DataSetting())
    train, test = (
        to_float(torch.stack([images.image(i, None) for i in range(len(images))]))
        for images in (data.train(), data.test())
    )
    network = Autoencoder(AutoencoderConfig.of_file(SIZES))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=args.steps, pct_start=0.05)
    for _ in tqdm(range(args.steps), "training"):
        images = train[torch.randint(len(train), (BATCH,))]
        mean, std = network.encode(images)
        decoded = network.decode(mean + std * torch.randn_like(std))
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        loss = F.mse_loss(decoded, images) + KL * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False).half().float()  # what is measured is what is written
    mean, std = network.encode(train)
    spread = math.sqrt((mean.var() + std.square().mean()).item())
    content = {**SIZES, "scaling_factor": round(1 / spread, 4)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / CONFIG).write_text(json.dumps(content, indent=1) + "\n")
    save_file({name: x.half().contiguous() for name, x in network.state_dict().items()}, args.out / WEIGHTS)
    error = (network.decode(network.encode(test)[0]) - test).square().mean().sqrt()
    size = (args.out / WEIGHTS).stat().st_size
    print(f"held-out RMSE {error:.4f} of pixels in [-1, 1] (their own: {test.std():.3f}); latents: {spread:.3f} wide")
    print(f"{sum(x.numel() for x in network.parameters()):,} parameters, {size / 1000:.0f} kB in {args.out}")


if __name__ == "__main__":
    main()
