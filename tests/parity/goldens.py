"""Golden numbers of the published V-Co and JiT code: files, networks with their weights, and how results are compared.

A file holds `weights.*` (the reference's own names), `in.*` and `out.*`; weights and images are stored in half
precision and were rounded to it before the reference ran in float32. VCO_GOLDENS names another folder of such files.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from parity.official_names import translate
from safetensors.torch import load_file
from torch import Tensor

from vco.api import FEATURES, IMAGE, Backbone, BackboneSetting, Streams, StreamSpec
from vco_plugins.backbones.jit import JiT
from vco_plugins.backbones.jit_dual import JiTDual
from vco_plugins.backbones.jit_joint import JiTJoint

FOLDER = Path(os.environ.get("VCO_GOLDENS") or Path(__file__).parent / "goldens")
CONTEXT_START = 1
"""Blocks before the in-context tokens join; the one number that cannot be read off the weights."""
LATENT = FOLDER / "latent"
"""Golden numbers of the latent-space methods."""
TOLERANCE = 1e-5
"""Relative error of the norm: float32 sums in another order give about 1e-6 at this size."""


@attrs.frozen(kw_only=True)
class Golden:
    """One file; names without their first part, halves as float32."""

    weights: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    def input(self, name: str, rows: int) -> Tensor:
        """An input of which a single row stands for all."""
        value = self.inputs[name]
        return value.expand(rows, *value.shape[1:]) if len(value) == 1 else value


def load_golden(name: str) -> Golden:
    """Reads a file by its name without the ending."""
    tensors = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in load_file(FOLDER / f"{name}.safetensors").items()
    }

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    return Golden(weights=part("weights."), inputs=part("in."), outputs=part("out."))


def load_backbone(golden: Golden, image_size: tuple[int, int] = (256, 256)) -> Backbone:
    """Builds the network that fits a file's weights: `JiT`, `JiTDual`, or `JiTJoint` where streams share attention."""
    weights = golden.weights
    dual = "x_embedder.dino_proj1.weight" in weights
    embed = weights["x_embedder.pix_proj1.weight" if dual else "x_embedder.proj1.weight"]
    bottleneck, channels, patch, _ = embed.shape
    context_tokens, width = weights["in_context_posemb"].shape[1:]
    q_norm = next(tensor for name, tensor in weights.items() if "q_norm" in name)
    network: Any = JiTDual if dual else JiT
    options: dict[str, Any] = {}
    if dual and "blocks.0.attn.qkv.weight" in weights:
        network = JiTJoint
        options = {"fusion": "shared-qkv" if "blocks.0.norm1_dino.weight" in weights else "token-concat"}
    config = network.Config(
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        heads=width // len(q_norm),
        bottleneck=bottleneck,
        patch=patch,
        context_tokens=context_tokens,
        context_start=CONTEXT_START,
        **options,
    )
    height, width = image_size
    streams = {IMAGE: StreamSpec(shape=(channels, height, width))}
    if dual:
        grid = (height // patch, width // patch)
        features = weights["x_embedder.dino_proj1.weight"].shape[1]
        streams[FEATURES] = StreamSpec(shape=(grid[0] * grid[1], features), grid=grid)
    num_classes = len(weights["y_embedder.embedding_table.weight"]) - 1
    backbone = network(config, BackboneSetting(streams=streams, num_classes=num_classes))
    backbone.load_state_dict(translate(weights), strict=True)
    return backbone


def thinned(clean: Streams) -> Streams:
    """Every fifth row and column of a prediction, as the files keep it."""
    return {name: stream[..., ::5, ::5] for name, stream in clean.items()}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Fails if the relative error of the norm is above the tolerance."""
    assert actual.shape == expected.shape
    error = torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected)
    assert error <= tolerance, f"relative error {error:.2e} is above {tolerance:.0e}"
