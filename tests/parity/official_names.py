"""The published code's parameter names in ours; the JiT-like networks, golden files and released checkpoints."""

import re
from collections.abc import Mapping

from torch import Tensor

SKIPPED = re.compile(r"pos_embed$|img_mean$|img_std$|drifting_dinov2\.|x_embedder\.dinov2\.|feat_rope")
"""Fixed tables and frozen encoders."""

EMBEDDERS = {
    "in_context_posemb": "conditioning.context",
    "t_embedder.mlp.0.": "conditioning.time.input.",
    "t_embedder.mlp.2.": "conditioning.time.output.",
    "y_embedder.embedding_table.": "conditioning.label.",
}
STREAMS = {"pix": "image", "pixel": "image", "pixels": "image", "dino": "features", "dinov2": "features"}
LAYERS = {
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
"""A layer's name without its stream -> (our module, its layer); where streams do not share
a module, a network has one for each."""
PLURALS = {"embed": "embeds", "attention": "attention", "stream": "streams", "head": "heads"}


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict for `JiT`, `JiTDual` or `JiTJoint`; maps that are 1x1 convolutions there are flattened."""
    names = {name: name.removeprefix("net.") for name in weights}
    return {_name(short): _shape(short, weights[name]) for name, short in names.items() if not SKIPPED.match(short)}


def _name(name: str) -> str:
    for theirs, ours in EMBEDDERS.items():
        if name.startswith(theirs):
            return name.replace(theirs, ours)
    parts = re.fullmatch(r"(blocks\.\d+\.)?(?:attn\.)?(.+)\.(weight|bias)", name)
    assert parts, f"{name} is not a layer of the published code"
    block, stem, kind = parts.groups(default="")
    # the stream's word stands before a part (dino_proj1, pixels_linear) or after it (qkv_pixel, mlp_dino.w12)
    word = re.search(r"(?<=\.)(pix|dino|pixels|dinov2)_|_(pixel|dino)(?=\.|$)", stem)
    module, layer = LAYERS[stem.replace(word[0], "") if word else stem]
    if word:
        module = f"{PLURALS[module]}.{STREAMS[word[1] or word[2]]}"
    return f"{block}{module}.{layer}.{kind}"


def _shape(name: str, weight: Tensor) -> Tensor:
    if name == "in_context_posemb":
        return weight.squeeze(0)
    return weight.flatten(1) if weight.shape[2:] == (1, 1) and not name.endswith("pix_proj1.weight") else weight
