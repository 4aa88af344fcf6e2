"""Trains digits-vit and digits-cnn on the training split of `digits`; writes the weights that ship with vco.

    python benchmarks/train_digits_networks.py [--out FOLDER]

Takes about a minute on one core; the same machine and versions give the same files.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from vco.api import DataSetting, ImageSet
from vco_plugins.data.digits import Digits
from vco_plugins.features import digits_cnn, digits_vit

BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(digits_vit.__file__).parent, help="folder to write to")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, train in {"digits_vit": train_vit, "digits_cnn": train_cnn}.items():
        start = time.perf_counter()
        network, logits = train()
        network.half().float()  # what is shipped is what is measured
        images, labels = stacked(Digits(Digits.Config(), DataSetting()).test())
        with torch.no_grad():
            accuracy = (logits(images).argmax(1) == labels).float().mean().item()
        path = folder / f"{name}.safetensors"
        half = {key: value.half() for key, value in network.state_dict().items()}
        save_file(half, path, metadata={"test_accuracy": f"{accuracy:.4f}"})
        seconds = time.perf_counter() - start
        print(f"{name}: accuracy {accuracy:.4f}, {path.stat().st_size / 1000:.0f} kB, {seconds:.0f} s")


def train_vit() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    torch.manual_seed(1)
    network = digits_vit.Network()
    patch_classifier = nn.Linear(digits_vit.WIDTH, 10)
    painter = nn.Linear(digits_vit.WIDTH, digits_vit.PATCH**2)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        hidden = network.norm(network(images))
        patches = F.unfold(images, digits_vit.PATCH, stride=digits_vit.PATCH).transpose(1, 2)
        return (
            F.cross_entropy(network.classifier(hidden[:, 0]), labels, label_smoothing=0.1)
            + F.cross_entropy(patch_classifier(hidden[:, 1:].mean(1)), labels, label_smoothing=0.1)
            + F.mse_loss(painter(hidden[:, 1:]), patches)
        )

    fit(nn.ModuleList([network, patch_classifier, painter]), loss, epochs=80, rate=2e-3)
    return network, lambda images: network.classifier(network.norm(network(images))[:, 0])


def train_cnn() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    torch.manual_seed(2)
    network = digits_cnn.Network()
    painter = nn.Linear(digits_cnn.WIDTH, digits_cnn.SIDE**2)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        pooled = network(images).mean(1)
        drawn = F.mse_loss(painter(pooled), images.flatten(1))
        return F.cross_entropy(network.classifier(pooled), labels, label_smoothing=0.1) + drawn

    fit(nn.ModuleList([network, painter]), loss, epochs=60, rate=3e-3)
    return network, lambda images: network.classifier(network(images).mean(1))


def fit(modules: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], *, epochs: int, rate: float) -> None:
    """AdamW with a cosine to zero over shuffled, augmented epochs of the training split."""
    images, labels = stacked(Digits(Digits.Config(), DataSetting()).train())
    optimizer = torch.optim.AdamW(modules.parameters(), weight_decay=0.05)
    order: tuple[Tensor, ...] = ()
    steps = epochs * len(images) // BATCH
    for step in range(steps):
        if step % (len(images) // BATCH) == 0:
            order = torch.randperm(len(images)).split(BATCH)
        rows = order[step % len(order)]
        warm_up = min(1.0, (step + 1) / 50)
        optimizer.param_groups[0]["lr"] = rate * warm_up * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss(jittered(images[rows]), labels[rows]).backward()
        optimizer.step()


def jittered(images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 1 8 8"]:
    """Turns by about 6 degrees, scales by about 6 %, shifts by half a pixel; leaves a quarter alone."""
    jitter = (torch.rand(len(images)) < 0.75).float()
    turn, log_scale, right, down = torch.randn(4, len(images)) * torch.tensor([0.1, 0.06, 0.12, 0.12])[:, None] * jitter
    cos, sin = log_scale.exp() * turn.cos(), log_scale.exp() * turn.sin()
    maps = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1)
    where = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, where, align_corners=False) - 1  # black, not gray, comes in from outside


def stacked(subset: ImageSet) -> tuple[Float[Tensor, "b 1 8 8"], Int[Tensor, " b"]]:
    """All images, in [-1, 1], and their classes."""
    images = torch.stack([subset.image(index, None) for index in range(len(subset))])
    return images / 127.5 - 1, subset.labels


if __name__ == "__main__":
    main()
