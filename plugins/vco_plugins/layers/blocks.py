"""Transformer blocks with gated adaLN, and the heads after them."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vco_plugins.layers.attention import Attention, Positions, Rope2d
from vco_plugins.layers.basic import (
    AdaLN,
    Modulation,
    PlainMLP,
    PlainNorm,
    RMSNorm,
    SwiGLU,
    Tokens,
    Told,
    linear,
    modulate,
    of_tokens,
)


class StreamBlock(nn.Module):
    """A stream's own half of a block: adaLN-modulated norms before attention and SwiGLU, gated residuals after them.

    A `plain` one (DiT, SiT) has norms that learn nothing, and an MLP without a gate.
    """

    def __init__(
        self, width: int, mlp_ratio: float, dropout: float = 0.0, told: int | None = None, plain: bool = False
    ) -> None:
        super().__init__()
        self.adaln = AdaLN(width, 6, told)
        self.norm1, self.norm2 = (PlainNorm() if plain else RMSNorm(width) for _ in range(2))
        self.mlp = PlainMLP(width, mlp_ratio) if plain else SwiGLU(width, mlp_ratio, dropout)

    def before(self, x: Tokens, c: Told) -> tuple[Tokens, tuple[Modulation, ...]]:
        """Returns the input of attention, and the modulation that `after` takes."""
        shift, scale, *rest = self.adaln(of_tokens(c, x))
        return modulate(self.norm1(x), shift, scale), tuple(rest)

    def after(self, x: Tokens, attended: Tokens, rest: tuple[Modulation, ...]) -> Tokens:
        """Adds the attention's output and the MLP to the stream."""
        gate, mlp_shift, mlp_scale, mlp_gate = rest
        x = x + gate * attended
        return x + mlp_gate * self.mlp(modulate(self.norm2(x), mlp_shift, mlp_scale))


class Block(nn.Module):
    """JiT's transformer block, or SiT's if it is `plain`: one stream that attends to itself.

    `told` is the width of the condition, by default that of the tokens.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dropout: float = 0.0,
        told: int | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout, plain)
        self.stream = StreamBlock(width, mlp_ratio, dropout, told, plain)

    def forward(self, x: Tokens, c: Told, rope: Rope2d | None = None, positions: Positions | None = None) -> Tokens:
        h, rest = self.stream.before(x, c)
        attended = F.scaled_dot_product_attention(*self.attention.project(h, rope, positions))
        return self.stream.after(x, self.attention.merge(attended), rest)


class Head(nn.Module):
    """Tokens to predictions: adaLN-modulated norm, then a linear layer that starts as zero.

    `told` is the width of the condition, by default that of the tokens. The norm of a `plain` head learns nothing.
    """

    def __init__(self, width: int, outputs: int, told: int | None = None, plain: bool = False) -> None:
        super().__init__()
        self.adaln = AdaLN(width, 2, told)
        self.norm = PlainNorm() if plain else RMSNorm(width)
        self.linear = linear(width, outputs, zero=True)

    def forward(self, x: Tokens, c: Told) -> Float[Tensor, "b n e"]:
        return self.linear(self.normed(x, c))

    def normed(self, x: Tokens, c: Told) -> Tokens:
        """Returns what the linear layer reads, which another one may read too."""
        return modulate(self.norm(x), *self.adaln(of_tokens(c, x)))
