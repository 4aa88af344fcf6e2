"""Streams and encoders of a run that does not exist: what components are told when they are tested."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from vco.api import IMAGE, FeatureSpec, StreamSpec, UserError
from vco.testing.sizes import Sizes

FIRST: Final = "first"
SECOND: Final = "second"
"""Names of the two encoders that components are given, in their order."""
_SHAPE: Final = re.compile(r"(\d+(?:x\d+)*)(?:@(\d+)x(\d+))?")


@attrs.frozen(kw_only=True)
class Shapes:
    """Shapes that the author of a component has given, because it needs them."""

    streams: Mapping[str, StreamSpec] = attrs.field(factory=dict[str, StreamSpec])
    features: Mapping[str, FeatureSpec] = attrs.field(factory=dict[str, FeatureSpec])
    """Encoder -> what it yields."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(c, h, w) of the images, given as the stream "image"."""
        spec = self.streams.get(IMAGE)
        return None if spec is None else (spec.shape[0], spec.shape[1], spec.shape[2])


def read_shapes(given: Mapping[str, Any]) -> Shapes:
    """Reads shapes, as in {"streams.image": "3x32x32", "features.my-vit": "16x8@2x8"}.

    A shape of two numbers is tokens times width; their grid is the squarest one, or the one that is written behind @.

    Raises:
        UserError: if something else is written, saying what it should be.
    """
    streams: dict[str, StreamSpec] = {}
    features: dict[str, FeatureSpec] = {}
    for key, value in given.items():
        field, _, name = key.partition(".")
        shape, grid = _shape(key, value)
        if field == "streams" and (name == IMAGE) == (len(shape) == 3):
            streams[name] = StreamSpec(shape=shape, grid=grid)
        elif field == "features" and len(shape) == 2:
            features[name] = FeatureSpec(tokens=(shape[0], shape[1]), grid=grid or (1, shape[0]))
        else:
            raise UserError(
                f"{key}={value}: write streams.image=3x32x32, streams.NAME=16x8 or features.NAME=16x8 (tokens x "
                "width), with the grid of the tokens behind it if it is not the squarest one, as in 16x8@2x8"
            )
    return Shapes(streams=streams, features=features)


def _shape(key: str, value: Any) -> tuple[tuple[int, ...], tuple[int, int] | None]:
    text = "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise UserError(f"{key}={value}: a shape is written as in 16x8, or 16x8@2x8 with the grid of the tokens")
    shape = tuple(int(number) for number in found[1].split("x"))
    if found[2] is not None:
        grid = (int(found[2]), int(found[3]))
        if grid[0] * grid[1] != shape[0]:
            raise UserError(f"{key}={value}: a grid of {grid[0]}x{grid[1]} has {grid[0] * grid[1]} cells")
        return shape, grid
    return shape, _squarest(shape[0]) if len(shape) == 2 and shape[0] > 1 else None


def _squarest(cells: int) -> tuple[int, int]:
    """Rows and columns, as near to a square as their product allows, no more rows than columns."""
    rows = next(rows for rows in range(math.isqrt(cells), 0, -1) if cells % rows == 0)
    return rows, cells // rows


def encoders(sizes: Sizes, given: Shapes) -> dict[str, FeatureSpec]:
    """The encoders of a run: those that were given, or two on one grid whose widths differ.

    At some sizes the pooled vector is wider than the tokens.
    """
    if given.features:
        return dict(given.features)
    grid, width = (sizes.rows, sizes.columns), sizes.width
    pooled = width + (sizes.channels == 1)
    return {
        FIRST: FeatureSpec(tokens=(grid[0] * grid[1], width), grid=grid, pooled=pooled),
        SECOND: FeatureSpec(tokens=(grid[0] * grid[1], width + 3), grid=grid, pooled=pooled + 2),
    }
