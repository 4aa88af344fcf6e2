"""Names in the files that the authors of Latent Forcing have published."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from vco.api import FEATURES, IMAGE, PublishedWeights, UserError
from vco_plugins.jit_config import TransformerConfig

STREAMS: Final = {"pixel": IMAGE, "dino": FEATURES}
"""Their word for a stream -> ours."""
NOT_NEEDED: Final = re.compile(r"dino\.|ag_net\.|feat_rope|.*rope")
"""The frozen encoder, the weak network of guidance, and tables that are computed here."""
IN_BLOCKS: Final = {
    "attn.qkv": "attention.qkv",
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "attn.proj": "attention.output",
    "norm1": "stream.norm1",
    "norm2": "stream.norm2",
    "mlp.w12": "stream.mlp.input",
    "mlp.w3": "stream.mlp.output",
    "adaLN_modulation.1": "stream.adaln.linear",
}
IN_HEADS: Final = {"norm_final": "norm", "linear": "linear", "adaLN_modulation.1": "adaln.linear"}
MLP: Final = {"0": "input", "2": "output"}
CONVOLUTIONS: Final = {"1": "reduce", "2": "expand"}
WHOLE: Final = {
    "pos_embed": "positions",
    "in_context_posemb": "conditioning.context",
    "y_embedder.embedding_table.weight": "conditioning.label.weight",
}
MARK: Final = "pixel_embedder.proj1.weight"
"""A tensor that no other published network has."""


def own_name(name: str) -> str | None:
    """The name of a tensor in `JiTJoint`; None for one that it does not need.

    Raises:
        UserError: if it is no name of the published code.
    """
    short = name.removeprefix("net.")
    if NOT_NEEDED.match(short):
        return None
    if short in WHOLE:
        return WHOLE[short]
    stem, _, kind = short.rpartition(".")
    if kind in ("weight", "bias") and (found := _layer(stem)):
        return f"{found}.{kind}"
    raise UserError(f"the file holds {name}, which is no layer of the published Latent Forcing")


def is_latent_forcing(names: Iterable[str]) -> bool:
    """Whether a file with these tensors is one of Latent Forcing."""
    return any(name.removeprefix("net.") == MARK for name in names)


def recognise_latent_forcing(weights: PublishedWeights, config: TransformerConfig) -> dict[str, str]:
    """What `JiTJoint.from_published` returns for a file of Latent Forcing, after checking what the shapes tell.

    Raises:
        UserError: if the file needs other options.
    """
    shapes = {name.removeprefix("net."): shape for name, shape in weights.shapes.items()}
    names = {name: own for name in weights.shapes if (own := own_name(name)) is not None}
    needed = [f"--backbone.{name.replace('_', '-')} {value}" for name, value in _options(shapes, config).items()]
    classes = shapes["y_embedder.embedding_table.weight"][0] - 1
    if classes != weights.num_classes:
        needed.append(f"{classes} classes instead of {weights.num_classes} (as with --data.classes {classes})")
    features = weights.streams[FEATURES].shape[-1] if FEATURES in weights.streams else 0
    theirs = shapes["dino_embedder.proj1.weight"][1]
    if features != theirs:
        needed.append(f"features {theirs} wide instead of {features} (the encoder that it was trained with)")
    if needed:
        raise UserError(f"the file needs {', '.join(needed)}")
    return names


def _options(shapes: Mapping[str, tuple[int, ...]], config: Any) -> dict[str, Any]:
    """The options of the network that the file needs and that are set otherwise."""
    size = config.resolved
    bottleneck, _, patch, _ = shapes[MARK]
    (width,) = shapes["t_pixel_embedder.mlp.2.bias"]
    (head,) = shapes["blocks.0.attn.q_norm.weight"]
    own = len({name.split(".")[1] for name in shapes if name.startswith("dh_blocks_pixel.")})
    trunk = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    (own_width,) = shapes["dh_pixel_proj.bias"] if own else (width,)
    squeezed = shapes["dino_embedder.proj1.weight"][0]
    ours = config.feature_bottleneck or size.bottleneck
    compared = {
        "fusion": ("direct-addition", config.fusion),
        "time_embedding": ("separate", config.time_embedding),
        "width": (width, size.width),
        "depth": (trunk + own, size.depth),
        "heads": (width // head, size.heads),
        "bottleneck": (bottleneck, size.bottleneck),
        "feature_bottleneck": (squeezed, ours),
        "patch": (patch, config.patch),
        "context_tokens": (shapes.get("in_context_posemb", (0, 0))[-2], config.context_tokens),
        "own_blocks": (own, config.own),
        "own_width": (own_width, config.own_width or size.width),
    }
    return {name: theirs for name, (theirs, our) in compared.items() if theirs != our}


def _layer(stem: str) -> str:
    """Our name of a layer; empty if there is none."""
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", stem):
        return f"blocks.{match[1]}.{IN_BLOCKS[match[2]]}" if match[2] in IN_BLOCKS else ""
    if match := re.fullmatch(r"dh_blocks_(pixel|dino)\.(\d+)\.(.+)", stem):
        known = match[3] in IN_BLOCKS
        return f"own_blocks.{match[2]}.{STREAMS[match[1]]}.{IN_BLOCKS[match[3]]}" if known else ""
    if match := re.fullmatch(r"(pixel|dino)_embedder\.proj([12])", stem):
        return f"embeds.{STREAMS[match[1]]}.{CONVOLUTIONS[match[2]]}"
    if match := re.fullmatch(r"t_(pixel|dino)_embedder\.mlp\.([02])", stem):
        place = "conditioning.time" if match[1] == "pixel" else f"other_times.{FEATURES}"
        return f"{place}.{MLP[match[2]]}"
    if match := re.fullmatch(r"dh_(pixel|dino)_proj", stem):
        return f"merge.outputs.{STREAMS[match[1]]}"
    if match := re.fullmatch(r"final_layer(?:_(pixel|dino))?\.(.+)", stem):
        head = STREAMS[match[1]] if match[1] else "patches"
        return f"heads.{head}.{IN_HEADS[match[2]]}" if match[2] in IN_HEADS else ""
    return ""
