"""Files in the format of the released checkpoints, and the options with which a preset has the networks in them."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from parity.goldens import CONTEXT_START, FOLDER, load_golden
from torch import Tensor

OFFICIAL = FOLDER / "official_checkpoint.pth"
ENCODERS = {384: "facebook/dinov2-with-registers-small", 768: "facebook/dinov2-with-registers-base"}
"""Width -> an encoder of it, of which an import needs no file."""


def content_of(path: Path = OFFICIAL) -> dict[str, Any]:
    """What the file holds."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def options_for(weights: Mapping[str, Tensor]) -> list[str]:
    """Options of `vco-run` with which a preset for ImageNet has the network of some weights."""
    shapes = {name.removeprefix("net."): tensor.shape for name, tensor in weights.items()}
    dual = "x_embedder.pix_proj1.weight" in shapes
    embed = shapes["x_embedder.pix_proj1.weight" if dual else "x_embedder.proj1.weight"]
    context, width = shapes["in_context_posemb"][1:]
    (head,) = next(shape for name, shape in shapes.items() if "q_norm" in name)
    options: dict[str, Any] = {
        "backbone.width": width,
        "backbone.depth": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        "backbone.heads": width // head,
        "backbone.bottleneck": embed[0],
        "backbone.patch": embed[-1],
        "backbone.context-tokens": context,
        "backbone.context-start": CONTEXT_START,
        "data.classes": shapes["y_embedder.embedding_table.weight"][0] - 1,
    }
    if dual:
        options["features.weights"] = ENCODERS[shapes["x_embedder.dino_proj1.weight"][1]]
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def write_golden(name: str, path: Path, **settings: Any) -> dict[str, Tensor]:
    """Writes the weights of a golden file in the format of the released checkpoints; returns the running average."""
    weights = {f"net.{key}": tensor for key, tensor in load_golden(name).weights.items()}
    last = {key: tensor + 1 for key, tensor in weights.items()}
    content = {"model": last, "model_ema1": weights, "model_ema2": last, "optimizer": {"state": {}}, "epoch": 599}
    torch.save({**content, "args": argparse.Namespace(**settings)}, path)
    return weights
