"""Latent Forcing's network with the weights of a golden file, and its streams in our shapes."""

from collections.abc import Mapping
from typing import Any

from parity.latent_goldens import LatentGolden
from parity.sit_goldens import tokens_of
from torch import Tensor

from vco.api import FEATURES, IMAGE, BackboneSetting, Streams, StreamSpec
from vco_plugins.backbones.jit_joint import JiTJoint
from vco_plugins.published_latent_forcing import own_name


def load_latent_forcing(golden: LatentGolden, weak: bool = False) -> JiTJoint:
    """The network of a file, or the weak one beside it."""
    config: Mapping[str, Any] = golden.config["weak"] if weak else golden.config
    weights = golden.part_of_weights("weak.") if weak else golden.weights
    side, own = config["input_size"] // config["patch_size"], config["dh_depth"]
    specs = {
        IMAGE: StreamSpec(shape=(config["in_channels"], config["input_size"], config["input_size"])),
        FEATURES: StreamSpec(shape=(side * side, config["dino_in_channels"]), grid=(side, side)),
    }
    options = JiTJoint.Config(
        fusion="direct-addition",
        time_embedding="separate",
        width=config["hidden_size"],
        depth=config["depth"] + own,
        heads=config["num_heads"],
        bottleneck=config["bottleneck_dim"],
        feature_bottleneck=config["bottleneck_dim_dino"],
        patch=config["patch_size"],
        context_tokens=config["in_context_len"],
        context_start=config["in_context_start"],
        own_blocks=own,
        own_width=config["dh_hidden_size"] if own else None,
    )
    backbone = JiTJoint(options, BackboneSetting(streams=specs, num_classes=config["num_classes"]))
    backbone.load_state_dict(translate({n: w for n, w in weights.items() if not n.startswith("weak.")}))
    return backbone


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names and in our shapes, which have no axes of length 1 for 1x1 convolutions."""
    named = {own: (name, tensor) for name, tensor in weights.items() if (own := own_name(name)) is not None}
    return {own: _shaped(name, tensor) for own, (name, tensor) in named.items()}


def streams_of(golden: LatentGolden, image: str = "x", features: str = "feature") -> Streams:
    """The streams among a file's inputs, by what they are called there."""
    return {IMAGE: golden.inputs[image], FEATURES: tokens_of(golden.inputs[features])}


def _shaped(name: str, tensor: Tensor) -> Tensor:
    if name.endswith("in_context_posemb"):
        return tensor.squeeze(0)
    return tensor.flatten(1) if tensor.ndim == 4 and "pixel_embedder.proj1" not in name else tensor
