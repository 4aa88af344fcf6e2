"""Where the tokens of a feature stream lie: on the encoder's grid, or on that of the image stream."""

from typing import Literal

import attrs
import torch.nn.functional as F
from attrs.validators import in_
from jaxtyping import Float
from torch import Tensor

from vco.api import AdapterSetting, FeatureSpec, StreamSpec


@attrs.frozen(kw_only=True)
class PlacedConfig:
    """The option of adapters whose tokens can be brought to the image stream's grid."""

    grid: Literal["encoder", "image"] = attrs.field(default="encoder", validator=in_(("encoder", "image")))
    """Grid of the stream: the encoder's own, or that of the image stream's values, interpolated between tokens (ReDi:
    16x16 tokens to 32x32 latents), as backbone sit wants it."""


def placed_spec(config: PlacedConfig, spec: FeatureSpec, width: int, setting: AdapterSetting) -> StreamSpec:
    """The stream of an encoder's tokens of this width."""
    rows, columns = setting.image.shape[1:] if config.grid == "image" else spec.grid
    return StreamSpec(shape=(rows * columns, width), grid=(rows, columns))


def placed(tokens: Float[Tensor, "b m d"], grid: tuple[int, int], target: StreamSpec) -> Float[Tensor, "b n d"]:
    """Tokens on the grid of the stream: bilinear between the centres of tokens, constant beyond the outermost ones.

    Source: ReDi (arXiv 2504.16064), whose code resizes with align_corners=False and without antialias.
    """
    if target.grid is None or target.grid == grid:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    resized = F.interpolate(maps, size=target.grid, mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
