"""The network of SiT's relatives with the weights of a golden file, and its streams in our shapes and times."""

from collections.abc import Mapping

from parity.latent_goldens import LatentGolden
from torch import Tensor

from vco.api import FEATURES, IMAGE, BackboneSetting, Streams, StreamSpec
from vco_plugins.backbones.sit import SiT
from vco_plugins.layers import CLASS_TOKEN
from vco_plugins.published_sit import own_name

LATENTS = 4
"""Channels of the latents in all files; further ones are ReDi's features."""


def load_sit(golden: LatentGolden) -> SiT:
    """The network of a file; those of REPA and REG, which have projectors, count time from data to noise."""
    config, weights = golden.config, golden.weights
    side, channels = config["input_size"], config["in_channels"]
    specs = {IMAGE: StreamSpec(shape=(LATENTS, side, side))}
    if channels > LATENTS:
        specs[FEATURES] = StreamSpec(shape=(side * side, channels - LATENTS), grid=(side, side))
    if "wg_norm.weight" in weights:
        specs[CLASS_TOKEN] = StreamSpec(shape=(1, weights["cls_projectors2.weight"].shape[1]))
    options = SiT.Config(
        width=config["hidden_size"],
        depth=config["depth"],
        heads=config["num_heads"],
        patch=config["patch_size"],
        direction="noise" if "projectors.0.0.weight" in weights or "z_dims" in config else "data",
        spare_outputs=config.get("learn_sigma", False),
    )
    backbone = SiT(options, BackboneSetting(streams=specs, num_classes=config["num_classes"]))
    backbone.load_state_dict(translate(weights))
    return backbone


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names; those of projectors, which are no part of the network, are left out."""
    return {own: tensor for name, tensor in weights.items() if (own := own_name(name)) is not None}


def tokens_of(maps: Tensor) -> Tensor:
    """[b, d, h, w] -> [b, n, d], row by row."""
    return maps.flatten(2).transpose(1, 2)


def streams_of(golden: LatentGolden, latents: str = "x", features: str = "feature", cls: str = "cls") -> Streams:
    """The streams among a file's inputs, by what they are called there."""
    found = {IMAGE: golden.inputs[latents]}
    if features in golden.inputs:
        found[FEATURES] = tokens_of(golden.inputs[features])
    if cls in golden.inputs:
        found[CLASS_TOKEN] = golden.inputs[cls][:, None]
    return found
