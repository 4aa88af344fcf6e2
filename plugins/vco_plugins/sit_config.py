"""Sizes and settings of SiT."""

from typing import Final, Literal

import attrs
from attrs.validators import ge, in_, optional

from vco.api import Backbone


@attrs.frozen(kw_only=True)
class Size:
    """The numbers behind a size's letter."""

    width: int
    depth: int
    heads: int


SIZES: Final = {
    "S": Size(width=384, depth=12, heads=6),
    "B": Size(width=768, depth=12, heads=12),
    "L": Size(width=1024, depth=24, heads=16),
    "XL": Size(width=1152, depth=28, heads=16),
}


def _fits(config: "SiTConfig", attribute: "attrs.Attribute[int | None]", value: int | None) -> None:
    """Told once, at the field that was given (the width if both were)."""
    size = config.resolved
    told_at_width = attribute.name == "heads" and config.width is not None
    if not told_at_width and size.heads > 0 and (size.width % size.heads or size.width % 4):
        raise ValueError(f"width {size.width} must be a multiple of the heads ({size.heads}) and of 4")


@attrs.frozen(kw_only=True)
class SiTConfig(Backbone.Config):
    """What a user may set; common to the backbones with SiT's blocks."""

    size: Literal["S", "B", "L", "XL"] = attrs.field(default="XL", validator=in_(SIZES))
    """Gives width, depth and heads where they are not set."""
    width: int | None = attrs.field(default=None, validator=[optional(ge(4)), _fits])
    """Token width, a multiple of the heads and of 4; by default the size's (S 384, B 768, L 1024, XL 1152)."""
    depth: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Number of blocks, at least 1; by default the size's (S and B 12, L 24, XL 28)."""
    heads: int | None = attrs.field(default=None, validator=[optional(ge(1)), _fits])
    """Attention heads, at least 1; by default the size's (S 6, B 12, L and XL 16)."""
    patch: int = attrs.field(default=2, validator=ge(1))
    """Side of a patch in latents, at least 1; must divide the image stream's height and width."""
    mlp_ratio: float = attrs.field(default=4.0, validator=ge(1.0))
    """Hidden width of the MLPs over the token width, at least 1."""

    @property
    def resolved(self) -> Size:
        """The size with what was set by hand."""
        size = SIZES.get(self.size, SIZES["XL"])  # an unknown letter is reported by its own validator
        given = {name: getattr(self, name) for name in attrs.fields_dict(Size)}
        return attrs.evolve(size, **{name: value for name, value in given.items() if value is not None})


@attrs.frozen(kw_only=True)
class PublishedSiTConfig(SiTConfig):
    """What a user may set beside, of a network that others have published weights of."""

    direction: Literal["data", "noise"] = attrs.field(default="data", validator=in_(("data", "noise")))
    """Where the network's own time and velocity go: to data (SiT, ReDi), or to noise, so that it is told 1 - t and
    predicts noise - clean (REPA, REG); it matters for published weights alone."""
    spare_outputs: bool = False
    """Whether the last layer has as many outputs again, which are thrown away (the released weights of ReDi and of
    DiT's family, which have learned a variance)."""
