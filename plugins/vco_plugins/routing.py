"""Routes: in training, some of the patches skip a run of blocks [TREAD]."""

from dataclasses import dataclass
from typing import Final

import attrs
import torch
from attrs.validators import and_, ge, lt, optional
from jaxtyping import Float
from torch import Tensor

from vco_plugins.jit_config import TransformerConfig
from vco_plugins.layers import Positions, Tokens

ROUTING: Final = "routing"
"""Name of the random numbers that decide which patches are kept, one for each patch."""


def _fits(config: "RoutedConfig", attribute: "attrs.Attribute[int | None]", value: int | None) -> None:
    if not config.route_ratio:
        return
    first, last, depth = config.route_start, config.route_last, config.resolved.depth
    if not first <= last < depth:
        raise ValueError(
            f"the route from block {first} (route_start) to block {last} (route_end) must end below the depth "
            f"({depth}) and not before it starts"
        )


@attrs.frozen(kw_only=True)
class RoutedConfig(TransformerConfig):
    """What a user may set; common to backbones that can route patches past blocks."""

    route_ratio: float = attrs.field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
    """Share of the patches that skip the routed blocks in training, in [0, 1); 0 routes none (TREAD: 0.5)."""
    route_start: int = attrs.field(default=3, validator=ge(1))
    """First block that they skip, at least 1, the first (TREAD: 3)."""
    route_end: int | None = attrs.field(default=None, validator=[optional(ge(1)), _fits])
    """Last block that they skip, below the depth; by default the fourth from the end (TREAD: 9 of 12, 25 of 28), or the
    last but one of fewer than 8 blocks."""

    @property
    def route_last(self) -> int:
        """The last routed block, counted from 1."""
        depth = self.resolved.depth
        return self.route_end or depth - (3 if depth >= 8 else 1)

    @property
    def routed(self) -> range:
        """The routed blocks, counted from 0; none if nothing is routed."""
        return range(self.route_start - 1, self.route_last) if self.route_ratio else range(0)


def kept(draws: Float[Tensor, "b n"], ratio: float) -> Positions:
    """Positions of the patches that pass the routed blocks: those with the smallest random numbers, in their order."""
    count = draws.shape[1] - int(draws.shape[1] * ratio)
    return draws.argsort(dim=1, stable=True)[:, :count]


@dataclass(frozen=True, kw_only=True)
class Route:
    """The kept patches of each sample on their way through the routed blocks, and what waits for them at its end."""

    positions: Positions
    """Where the kept patches stand in the grid."""
    waiting: Tokens
    """All patches as they were before the route."""

    @classmethod
    def of(cls, draws: Float[Tensor, "b n"], ratio: float, x: Float[Tensor, "b m d"]) -> "Route":
        """A route for tokens that end with all patches; one random number for each of these decides."""
        return cls(positions=kept(draws, ratio), waiting=x[:, -draws.shape[1] :])

    def entered(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The kept patches, behind the tokens that stand in front of all patches, which are never routed."""
        patches = self.waiting.shape[1]
        return torch.cat([x[:, :-patches], x[:, -patches:].gather(1, self._index(x))], dim=1)

    def told(self, c: Float[Tensor, "b *n told"]) -> Float[Tensor, "b *m told"]:
        """What the tokens on the route are told."""
        return c if c.ndim == 2 else self.entered(c)

    def left(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """All patches again, behind the tokens in front: the others are as they were before the route."""
        count = self.positions.shape[1]
        patches = self.waiting.to(x.dtype).scatter(1, self._index(x), x[:, -count:])
        return torch.cat([x[:, :-count], patches], dim=1)

    def _index(self, x: Tokens) -> Tensor:
        return self.positions.unsqueeze(-1).expand(-1, -1, x.shape[-1])
