"""Names in the files that the authors of SiT, REPA, ReDi and REG have published, and the settings that they need."""

import re
from typing import Any, Final

import attrs

from vco.api import FEATURES, IMAGE, PublishedWeights, UserError
from vco_plugins.layers.class_token import CLASS_TOKEN
from vco_plugins.sit_config import PublishedSiTConfig

LABELS: Final = "y_embedder.embedding_table.weight"
WHOLE: Final = {
    "pos_embed": "positions",
    LABELS: "conditioning.label.weight",
    "x_embedder.proj": "embed",
    "t_embedder.mlp.0": "conditioning.time.input",
    "t_embedder.mlp.2": "conditioning.time.output",
    "final_layer.adaLN_modulation.1": "head.adaln.linear",
    "final_layer.linear": "head.linear",
    "final_layer.linear_cls": "class_token.output",
    "cls_projectors2": "class_token.input",
    "wg_norm": "class_token.norm",
}
"""Tensors and layers outside of blocks."""
IN_BLOCKS: Final = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.output",
    "mlp.fc1": "stream.mlp.input",
    "mlp.fc2": "stream.mlp.output",
    "adaLN_modulation.1": "stream.adaln.linear",
}
NOT_NEEDED: Final = re.compile(r"projectors\.\d+\.")
"""REPA's projectors, which belong to its loss and not to the network."""


def own_name(name: str, first_blocks: int = 0) -> str | None:
    """The name of a tensor in `SiT`; None for one that it does not need.

    Args:
        name: the name in the file.
        first_blocks: blocks before those that old files of REPA call `decoder_blocks`.

    Raises:
        UserError: if it is no name of the published code.
    """
    if NOT_NEEDED.match(name):
        return None
    if name in WHOLE:
        return WHOLE[name]
    layer, _, kind = name.rpartition(".")
    if layer in WHOLE and kind in ("weight", "bias"):
        return f"{WHOLE[layer]}.{kind}"
    parts = re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)", layer)
    if parts is None or parts[3] not in IN_BLOCKS or kind not in ("weight", "bias"):
        raise UserError(f"the file holds {name}, which is no layer of the published SiT, REPA, ReDi or REG")
    number = int(parts[2]) + (first_blocks if parts[1] else 0)
    return f"blocks.{number}.{IN_BLOCKS[parts[3]]}.{kind}"


def recognise(weights: PublishedWeights, config: PublishedSiTConfig) -> dict[str, str]:
    """What `SiT.from_published` returns, after checking what the shapes tell.

    Args:
        weights: what the file holds, and the run that is to take it.
        config: the network's settings.

    Raises:
        UserError: if the file is not of this network, or if it needs other options.
    """
    shapes = weights.shapes
    for needed in (LABELS, "x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.mlp.fc1.weight"):
        if needed not in shapes:
            raise UserError(f"the file is none of SiT, REPA, ReDi or REG: it holds no {needed}")
    first = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    names = {name: own for name in shapes if (own := own_name(name, first)) is not None}
    if needs := [*_options(weights, set(names.values()), config), *_of_the_run(weights, config)]:
        raise UserError(f"the file needs {', '.join(needs)}")
    return names


def _options(weights: PublishedWeights, names: set[str], config: PublishedSiTConfig) -> list[str]:
    """The options of the network that the file needs and that are set otherwise."""
    width, inputs, patch, _ = weights.shapes["x_embedder.proj.weight"]
    depth = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
    found = {"width": width, "depth": depth}
    ours = {name: value for name, value in attrs.asdict(config.resolved).items() if name in found}
    other: dict[str, Any] = {name: value for name, value in found.items() if ours[name] != value}
    if patch != config.patch:
        other["patch"] = patch
    hidden = weights.shapes["blocks.0.mlp.fc1.weight"][0] / width
    if hidden != config.mlp_ratio:
        other["mlp_ratio"] = hidden
    if any(NOT_NEEDED.match(name) for name in weights.shapes) and config.direction != "noise":
        other["direction"] = "noise"  # projectors are those of REPA and REG
    if FEATURES in weights.streams and config.direction != "data":
        other["direction"] = "data"  # ReDi's
    outputs = weights.shapes["final_layer.linear.weight"][0] // (inputs * patch**2)
    if (outputs == 2) != config.spare_outputs:
        other["spare_outputs"] = str(outputs == 2).lower()
    return [f"--backbone.{name.replace('_', '-')} {value}" for name, value in other.items()]


def _of_the_run(weights: PublishedWeights, config: PublishedSiTConfig) -> list[str]:
    """What the file needs of data, codec and streams, and the run has otherwise."""
    shapes, needed = weights.shapes, list[str]()
    classes = shapes[LABELS][0] - 1
    if classes != weights.num_classes:
        needed.append(f"{classes} classes instead of {weights.num_classes} (as with --data.classes {classes})")
    theirs = shapes["x_embedder.proj.weight"][1]
    ours = {
        name: weights.streams[name].shape[0 if name == IMAGE else -1]
        for name in (IMAGE, FEATURES)
        if name in weights.streams
    }
    if theirs != sum(ours.values()):
        listed = " and ".join(f"{count} of the stream {name}" for name, count in ours.items())
        needed.append(
            f"{theirs} channels of latents and features instead of {listed} (REPA and REG: 4, ReDi: 4 and "
            "--adapter.channels 8)"
        )
    if ("wg_norm.weight" in shapes) != (CLASS_TOKEN in weights.streams):
        has = "wg_norm.weight" in shapes
        needed.append(f"{'a' if has else 'no'} stream {CLASS_TOKEN!r} (--adapter {'class-token' if has else 'none'})")
    elif CLASS_TOKEN in weights.streams:
        width = shapes["cls_projectors2.weight"][1]
        if width != weights.streams[CLASS_TOKEN].shape[-1]:
            needed.append(f"a class token {width} wide (the encoder that it was trained with)")
    if "pos_embed" in shapes:
        side = round((shapes["pos_embed"][-2] - (CLASS_TOKEN in weights.streams)) ** 0.5) * config.patch
        image = weights.streams[IMAGE]
        if image.shape[1:] != (side, side):
            needed.append(f"latents of {side}x{side} instead of {image.shape[1]}x{image.shape[2]} (--data.size)")
    return needed
