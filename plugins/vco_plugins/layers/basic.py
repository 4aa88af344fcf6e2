"""Linear layers, norms, gated MLPs, and the modulation by which a condition acts on tokens."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Tokens = Float[Tensor, "b n d"]
Told = Float[Tensor, "b *k told"]
"""What adaLN layers are told: one vector a sample [b, told], or one for each token [b, k, told], in-context ones first.
Its width is the tokens' width d, but for blocks that are wider or narrower than the rest of their network."""
Modulation = Float[Tensor, "b #n d"]
"""Shifts, scales or gates: one vector for all tokens of a sample, or one for each."""


def linear(inputs: int, outputs: int, zero: bool = False) -> nn.Linear:
    """Returns a linear layer with Xavier-uniform (or zero) weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(*widths: int) -> nn.Sequential:
    """Returns linear layers from each width to the next, with SiLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def at_least_float32(x: Tensor) -> Tensor:
    """Returns half precision as float32, and everything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last axis with a learned scale, computed in at least float32 and cast back."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        wide = at_least_float32(x)
        return F.rms_norm(wide, self.normalized_shape, self.weight.to(wide.dtype), self.eps).to(x.dtype)


class PlainNorm(nn.Module):
    """LayerNorm over the last axis with nothing to learn, computed in at least float32 and cast back."""

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        return F.layer_norm(at_least_float32(x), x.shape[-1:], eps=1e-6).to(x.dtype)


class PlainMLP(nn.Module):
    """Two linear layers with a GELU between them, in its form with tanh."""

    def __init__(self, width: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.input = linear(width, hidden)
        self.output = linear(hidden, width)

    def forward(self, x: Tokens) -> Tokens:
        return self.output(F.gelu(self.input(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """Gated MLP with one fused input projection; its first half goes through SiLU."""

    def __init__(self, width: int, mlp_ratio: float, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = int(int(width * mlp_ratio) * 2 / 3)
        self.input = linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = linear(hidden, width)

    def forward(self, x: Tokens) -> Tokens:
        gate, value = self.input(x).chunk(2, dim=-1)
        return self.output(self.dropout(F.silu(gate) * value))


class AdaLN(nn.Module):
    """Maps the condition to `parts` vectors per sample or per token (shifts, scales, gates), zero at the start."""

    def __init__(self, width: int, parts: int, told: int | None = None) -> None:
        super().__init__()
        self.parts = parts
        self.linear = linear(told or width, parts * width, zero=True)

    def forward(self, c: Told) -> tuple[Modulation, ...]:
        modulation = self.linear(F.silu(c))
        return (modulation.unsqueeze(1) if c.ndim == 2 else modulation).chunk(self.parts, dim=-1)


def of_tokens(c: Told, x: Tokens) -> Float[Tensor, "b *m told"]:
    """Returns what the tokens x are told: c where that holds for the whole sample, else the last of its vectors.

    So c serves a sequence with in-context tokens in front of it, and the same sequence without them.
    """
    return c if c.ndim == 2 else c[:, -x.shape[1] :]


def modulate(x: Tokens, shift: Modulation, scale: Modulation) -> Tokens:
    """Returns x * (1 + scale) + shift."""
    return torch.addcmul(shift, x, 1 + scale)
