"""Names in the files that the authors of JiT and V-Co have published, and the settings that such a file needs."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from vco.api import FEATURES, IMAGE, PublishedWeights, UserError
from vco_plugins.jit_config import SIZES, Size, TransformerConfig
from vco_plugins.published_latent_forcing import MARK

NOT_NEEDED: Final = re.compile(r"img_mean$|img_std$|drifting_dinov2\.|x_embedder\.dinov2\.|feat_rope")
"""Frozen encoders, constants of the images, and tables that are computed here."""
WHOLE: Final = {
    "pos_embed": "positions",
    "in_context_posemb": "conditioning.context",
    "t_embedder.mlp.0.weight": "conditioning.time.input.weight",
    "t_embedder.mlp.0.bias": "conditioning.time.input.bias",
    "t_embedder.mlp.2.weight": "conditioning.time.output.weight",
    "t_embedder.mlp.2.bias": "conditioning.time.output.bias",
    "y_embedder.embedding_table.weight": "conditioning.label.weight",
}
ENCODERS: Final = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
"""Width of V-Co's features -> size of the DINOv2 that they are of."""
STREAMS: Final = {"pix": IMAGE, "pixel": IMAGE, "pixels": IMAGE, "dino": FEATURES, "dinov2": FEATURES}
LAYERS: Final = {
    "x_embedder.proj1": ("embed", "reduce"),
    "x_embedder.proj2": ("embed", "expand"),
    "qkv": ("attention", "qkv"),
    "q_norm": ("attention", "q_norm"),
    "k_norm": ("attention", "k_norm"),
    "proj": ("attention", "output"),
    "norm1": ("stream", "norm1"),
    "norm2": ("stream", "norm2"),
    "mlp.w12": ("stream", "mlp.input"),
    "mlp.w3": ("stream", "mlp.output"),
    "adaLN_modulation.1": ("stream", "adaln.linear"),
    "final_layer.norm_final": ("head", "norm"),
    "final_layer.linear": ("head", "linear"),
    "final_layer.adaLN_modulation.1": ("head", "adaln.linear"),
}
"""A layer's name without the word for its stream -> (our module, its layer)."""
OF_EACH: Final = {"embed": "embeds", "attention": "attention", "stream": "streams", "head": "heads"}
"""Our module, where each stream has one of its own."""


def own_name(name: str) -> str | None:
    """The name of a tensor in our networks; None for one that they do not need.

    Raises:
        UserError: if it is no name of the published code.
    """
    short = name.removeprefix("net.")
    if NOT_NEEDED.match(short):
        return None
    if short in WHOLE:
        return WHOLE[short]
    parts = re.fullmatch(r"(blocks\.\d+\.)?(?:attn\.)?(.+)\.(weight|bias)", short)
    block, stem, kind = parts.groups(default="") if parts else ("", "", "")
    # the stream's word stands before a part (dino_proj1, pixels_linear) or after it (qkv_pixel, mlp_dino.w12)
    word = re.search(r"(?<=\.)(pix|dino|pixels|dinov2)_|_(pixel|dino)(?=\.|$)", stem)
    found = LAYERS.get(stem.replace(word[0], "") if word else stem)
    if found is None:
        raise UserError(f"the file holds {name}, which is no layer of the published JiT or V-Co")
    module, layer = found
    if word:
        module = f"{OF_EACH[module]}.{STREAMS[word[1] or word[2]]}"
    return f"{block}{module}.{layer}.{kind}"


def recognise(weights: PublishedWeights, backbone: str, config: TransformerConfig) -> dict[str, str]:
    """What `Backbone.from_published` returns for a JiT-like network, after checking what the shapes tell.

    Args:
        weights: what the file holds, and the run that is to take it.
        backbone: the registered name of the network.
        config: its settings.

    Raises:
        UserError: if the file is not of this network, with the one that it is of; or if it needs other options.
    """
    shapes = {name.removeprefix("net."): shape for name, shape in weights.shapes.items()}
    fitting = _backbone_of(shapes)
    if fitting != backbone:
        raise UserError(f"the file holds the weights of --backbone {fitting}; choose a preset with that backbone")
    names = {name: own for name in weights.shapes if (own := own_name(name)) is not None}
    options = " ".join(_options(shapes, config))
    if needed := [*([options] if options else []), *_of_the_run(shapes, weights)]:
        raise UserError(f"the file needs {', '.join(needed)}")
    return names


def _backbone_of(names: Iterable[str]) -> str:
    """The network whose weights have these names."""
    if "y_embedder.embedding_table.weight" not in names:
        raise UserError("the file is none of JiT or V-Co: it holds no y_embedder.embedding_table.weight")
    if "x_embedder.proj.weight" in names:
        return "sit"
    if MARK in names:
        return "jit-joint"
    if "x_embedder.pix_proj1.weight" not in names:
        return "jit"
    return "jit-dual" if "blocks.0.qkv_pixel.weight" in names else "jit-joint"


def _options(shapes: Mapping[str, tuple[int, ...]], config: TransformerConfig) -> list[str]:
    """The options of the network that the file needs and that are set otherwise."""
    bottleneck, _, patch, _ = _shape(shapes, "x_embedder.proj1.weight", "x_embedder.pix_proj1.weight")
    (width,) = _shape(shapes, "t_embedder.mlp.2.bias")
    (head,) = next((shape for name, shape in shapes.items() if "q_norm" in name), (width,))
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    found = {"width": width, "depth": depth, "heads": width // head, "bottleneck": bottleneck}
    letter, start = _known_size(found)
    ours = attrs.asdict(config.resolved)
    theirs = found | ({"context_start": start} if letter else {})
    other = {name: value for name, value in theirs.items() if ours[name] != value}
    if letter and other and all(getattr(config, name) is None for name in attrs.fields_dict(Size)):
        other = {"size": letter}
    tokens = shapes.get("in_context_posemb", (0, 0))[-2]
    other |= {"patch": patch} if patch != config.patch else {}
    other |= {"context_tokens": tokens} if tokens != config.context_tokens else {}
    fusion = getattr(config, "fusion", None)
    if fusion is not None:
        told = "shared-qkv" if "blocks.0.norm1_dino.weight" in shapes else "token-concat"
        other |= {"fusion": told} if told != fusion else {}
    return [f"--backbone.{name.replace('_', '-')} {value}" for name, value in other.items()]


def _known_size(found: Mapping[str, int]) -> tuple[str, int]:
    """The letter of a published size and where its in-context tokens join, which no shape shows; ("", 0) if none."""
    for letter, size in SIZES.items():
        if all(getattr(size, name) == value for name, value in found.items()):
            return letter, size.context_start
    return "", 0


def _of_the_run(shapes: Mapping[str, tuple[int, ...]], weights: PublishedWeights) -> list[str]:
    """What the file needs of data, encoder and codec, and the run has otherwise."""
    image, needed = weights.streams[IMAGE], list[str]()
    classes = _shape(shapes, "y_embedder.embedding_table.weight")[0] - 1
    if classes != weights.num_classes:
        needed.append(f"{classes} classes instead of {weights.num_classes} (as with --data.classes {classes})")
    patch = _shape(shapes, "x_embedder.proj1.weight", "x_embedder.pix_proj1.weight")[-1]
    side = patch * round(shapes["pos_embed"][-2] ** 0.5) if "pos_embed" in shapes else image.shape[-1]
    if image.shape[1:] != (side, side):
        ours = "x".join(map(str, image.shape[1:]))
        needed.append(f"images of {side}x{side} instead of {ours} (as with --data.size {side})")
    noise = weights.settings.get("noise_scale", image.noise_scale)
    if noise != image.noise_scale:
        needed.append(f"--codec.noise-scale {noise}")
    features = weights.streams.get(FEATURES)
    if features is not None and "x_embedder.dino_proj1.weight" in shapes:
        theirs, ours = shapes["x_embedder.dino_proj1.weight"][1], features.shape[-1]
        if theirs != ours:
            size = ENCODERS.get(theirs)
            known = f"--features dinov2 --features.weights facebook/dinov2-with-registers-{size} --adapter rms"
            how = f"as with {known}" if size else "the encoder that it was trained with"
            needed.append(f"features {theirs} wide instead of {ours} ({how})")
    return needed


def _shape(shapes: Mapping[str, tuple[int, ...]], *names: str) -> tuple[int, ...]:
    """The shape of the first of these tensors that is there."""
    for name in names:
        if name in shapes:
            return shapes[name]
    raise UserError(f"the file is cut short: it holds no {names[0]}")
