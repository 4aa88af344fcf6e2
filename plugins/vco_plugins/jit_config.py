"""Sizes and settings that the JiT-like backbones share, and how they must fit the streams of a run."""

from collections.abc import Mapping
from typing import Final, Literal

import attrs
from attrs.validators import and_, ge, in_, lt, optional

from vco.api import FEATURES, IMAGE, Backbone, StreamSpec, UserError


@attrs.frozen(kw_only=True)
class Size:
    """The numbers behind a size's letter."""

    width: int
    depth: int
    heads: int
    bottleneck: int
    context_start: int


SIZES: Final = {
    "S": Size(width=384, depth=12, heads=6, bottleneck=128, context_start=4),
    "B": Size(width=768, depth=12, heads=12, bottleneck=128, context_start=4),
    "L": Size(width=1024, depth=24, heads=16, bottleneck=128, context_start=8),
    "H": Size(width=1280, depth=32, heads=16, bottleneck=256, context_start=10),
    "G": Size(width=1664, depth=40, heads=16, bottleneck=256, context_start=10),
}


def _heads_fit(config: "TransformerConfig", attribute: "attrs.Attribute[int]", value: int) -> None:
    """Told once, at the field that was given (the width if both were)."""
    size = config.resolved
    told_at_width = attribute.name == "heads" and config.width is not None
    if not told_at_width and size.heads > 0 and size.width % (4 * size.heads):
        raise ValueError(
            f"width {size.width} must be a multiple of 4 * heads ({4 * size.heads}), for the rotary embedding"
        )


def _starts_inside(config: "TransformerConfig", attribute: "attrs.Attribute[int]", value: int) -> None:
    if value >= config.resolved.depth:
        raise ValueError(f"context_start {value} must be below the depth ({config.resolved.depth})")


@attrs.frozen(kw_only=True)
class TransformerConfig(Backbone.Config):
    """What a user may set; common to the JiT-like backbones."""

    size: Literal["S", "B", "L", "H", "G"] = attrs.field(default="B", validator=in_(SIZES))
    """Gives width, depth, heads, bottleneck and context_start where they are not set; S is not a published size."""
    width: int | None = attrs.field(default=None, validator=optional(and_(ge(4), _heads_fit)))
    """Token width, a multiple of 4 * heads; by default the size's (S 384, B 768, L 1024, H 1280, G 1664)."""
    depth: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Number of blocks, at least 1; by default the size's (S and B 12, L 24, H 32, G 40)."""
    heads: int | None = attrs.field(default=None, validator=optional(and_(ge(1), _heads_fit)))
    """Attention heads, at least 1; by default the size's (S 6, B 12, others 16)."""
    bottleneck: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Width that patches and features are squeezed to before embedding, at least 1; by default 128 (H and G: 256)."""
    patch: int = attrs.field(default=16, validator=ge(1))
    """Side of a patch in pixels (or latents), at least 1; must divide the image's height and width."""
    context_tokens: int = attrs.field(default=32, validator=ge(0))
    """In-context class tokens in front of the stream, at least 0."""
    context_start: int | None = attrs.field(default=None, validator=optional(and_(ge(0), _starts_inside)))
    """Blocks before the in-context tokens join, in [0, depth); by default the size's, or a third of a given depth."""
    mlp_ratio: float = attrs.field(default=4.0, validator=ge(1.0))
    """Hidden width of the MLPs over the token width before SwiGLU's factor 2/3, at least 1."""
    dropout: float = attrs.field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
    """Dropout after attention and inside the MLPs, only in the middle half of the blocks, in [0, 1)."""

    @property
    def resolved(self) -> Size:
        """The size with what was set by hand."""
        size = SIZES.get(self.size, SIZES["B"])  # an unknown letter is reported by its own validator
        given = {name: getattr(self, name) for name in attrs.fields_dict(Size)}
        if self.depth is not None and self.context_start is None:
            given["context_start"] = self.depth // 3
        return attrs.evolve(size, **{name: value for name, value in given.items() if value is not None})

    def block_dropout(self, block: int) -> float:
        """The dropout of a block, counted from 0: that of the config if the block's middle is in the middle half."""
        depth = self.resolved.depth
        return self.dropout if depth <= 4 * block + 2 < 3 * depth else 0.0


def require_streams(streams: Mapping[str, StreamSpec], needed: tuple[str, ...]) -> None:
    """Raises `UserError` if the run lacks a stream that the backbone denoises."""
    missing = [name for name in needed if name not in streams]
    if missing:
        raise UserError(
            f"The backbone denoises the stream(s) {', '.join(needed)}, but this run has only {', '.join(streams)}: "
            f"choose an adapter that makes {', '.join(missing)}, or --backbone jit, which needs only the image"
        )


def patch_grid(image: StreamSpec, patch: int) -> tuple[int, int]:
    """Returns rows and columns of the patches of an image; raises `UserError` if they do not fill it."""
    _, height, width = image.shape
    if height % patch or width % patch:
        raise UserError(
            f"--backbone.patch {patch} does not divide the image size {height}x{width}: choose a side that divides both"
        )
    return height // patch, width // patch


def require_same_grid(streams: Mapping[str, StreamSpec], patch: int) -> None:
    """Raises `UserError` if the features' tokens do not lie on the patches' grid."""
    grid, wanted = patch_grid(streams[IMAGE], patch), streams[FEATURES].grid
    if wanted == grid:
        return
    _, height, width = streams[IMAGE].shape
    side = height // wanted[0] if wanted else 0
    fits = wanted is not None and (wanted[0] * side, wanted[1] * side) == (height, width)
    advice = f"set --backbone.patch {side}" if fits else "choose other --features, or their --features.resolution"
    raise UserError(
        f"The features' grid {wanted} is not the patches' grid {grid} (an image stream of {height}x{width} in patches "
        f"of {patch}): {advice}"
    )
