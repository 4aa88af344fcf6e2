"""Golden numbers of the published code of SiT's relatives and of Latent Forcing: files, networks, names."""

import json
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from parity.goldens import LATENT
from safetensors import safe_open
from torch import Tensor


@attrs.frozen(kw_only=True)
class LatentGolden:
    """One file; names without their first part, halves as float32."""

    weights: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    config: Mapping[str, Any]
    """How the published code was called."""

    def part_of_weights(self, prefix: str) -> dict[str, Tensor]:
        """The weights whose names begin so, without that."""
        return {name.removeprefix(prefix): w for name, w in self.weights.items() if name.startswith(prefix)}


def load_latent(name: str) -> LatentGolden:
    """Reads a file by its name without the ending."""
    with safe_open(LATENT / f"{name}.safetensors", "pt") as file:  # pyright: ignore[reportUnknownVariableType]
        config = json.loads(file.metadata()["config"])
        tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix): tensor.float() if tensor.dtype == torch.float16 else tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }

    return LatentGolden(weights=part("weights."), inputs=part("in."), outputs=part("out."), config=config)
