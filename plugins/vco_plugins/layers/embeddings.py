"""How images, feature tokens, times and labels enter a network, and how patch tokens become an image again."""

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vco_plugins.layers.basic import Tokens, Told, at_least_float32, linear
from vco_plugins.layers.tables import frequencies, table

FREQUENCIES: Final = 256
"""Cosines and sines in the embedding of t."""


class PatchEmbed(nn.Module):
    """Pixels to tokens through a bottleneck: patches to b channels (no bias), then b to d."""

    def __init__(self, channels: int, patch: int, bottleneck: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, bottleneck, kernel_size=patch, stride=patch, bias=False)
        nn.init.xavier_uniform_(self.reduce.weight.view(bottleneck, -1))
        self.expand = linear(bottleneck, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tokens:
        return self.expand(self.reduce(x.to(self.reduce.weight.dtype)).flatten(2).transpose(1, 2))


def unpatchify(tokens: Float[Tensor, "b n e"], grid: tuple[int, int], patch: int) -> Float[Tensor, "b c h w"]:
    """Returns the image of row-major patch tokens, each ordered (row, column, channel) inside."""
    x = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, grid)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class TokenEmbed(nn.Module):
    """Feature tokens to tokens through a bottleneck: D to b (no bias), then b to d.

    Initial weights are PyTorch's, as in V-Co, or those of the other layers (`xavier`), as in Latent Forcing.
    """

    def __init__(self, features: int, bottleneck: int, width: int, xavier: bool = False) -> None:
        super().__init__()
        self.reduce = nn.Linear(features, bottleneck, bias=False)
        self.expand = linear(bottleneck, width) if xavier else nn.Linear(bottleneck, width)
        if xavier:
            nn.init.xavier_uniform_(self.reduce.weight)

    def forward(self, x: Float[Tensor, "b n e"]) -> Tokens:
        return self.expand(self.reduce(x.to(self.reduce.weight.dtype)))


class TimeEmbed(nn.Module):
    """Cosines and sines of t in [0, 1] (cosines first, t not rescaled), then a two-layer MLP.

    Where every token has its own time, `context_tokens` in-context tokens stand in front of them and are told the mean
    of their sample's times.
    """

    frequencies: Tensor

    def __init__(self, width: int, context_tokens: int = 0) -> None:
        super().__init__()
        self.context_tokens = context_tokens
        self.input = linear(FREQUENCIES, width)
        self.output = linear(width, width)
        for layer in (self.input, self.output):
            nn.init.normal_(layer.weight, std=0.02)
        self.register_buffer("frequencies", table(frequencies(FREQUENCIES // 2)), persistent=False)

    def forward(self, t: Float[Tensor, "b *n"]) -> Told:
        if t.ndim == 2:
            t = torch.cat([t.mean(1, keepdim=True).expand(-1, self.context_tokens), t], dim=1)
        frequencies = at_least_float32(self.frequencies)
        angles = t.to(frequencies.dtype)[..., None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.output(F.silu(self.input(waves.to(self.input.weight.dtype))))


class GapEmbed(nn.Module):
    """The gap between the present time and the one that a step goes to, embedded as a time is.

    Its last layer starts at zero: an untrained network does as if it were not told of a gap.
    """

    def __init__(self, width: int, context_tokens: int = 0) -> None:
        super().__init__()
        self.embed = TimeEmbed(width, context_tokens)
        nn.init.zeros_(self.embed.output.weight)

    def forward(self, t: Float[Tensor, "b *n"], until: Float[Tensor, "b *m"] | None) -> Told:
        if until is None:
            return self.embed(torch.zeros_like(t))
        now, then = aligned(t, until)
        return self.embed(then - now)


class Conditioning(nn.Module):
    """Time and class label as the vector c of the adaLN layers, and the label again as in-context tokens.

    c = time + label; token m = label + learned position m. Index `num_classes` is the null label. Where every token has
    its own time, c holds a vector for each in-context token and then for each token of the stream.
    """

    def __init__(self, width: int, num_classes: int, context_tokens: int) -> None:
        super().__init__()
        self.time = TimeEmbed(width, context_tokens)
        self.label = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.label.weight, std=0.02)
        self.context = nn.Parameter(0.02 * torch.randn(context_tokens, width)) if context_tokens else None

    def forward(self, t: Float[Tensor, "b *n"], labels: Int[Tensor, " b"]) -> tuple[Told, Float[Tensor, "b m d"]]:
        label = self.label(labels)
        tokens = label[:, None]
        context = tokens[:, :0] if self.context is None else tokens + self.context
        return told_together(self.time(t), label), context


def told_together(a: Float[Tensor, "b *k told"], b: Float[Tensor, "b *l told"]) -> Float[Tensor, "b *m told"]:
    """Returns the sum of what is told; what holds for a whole sample is told to each of its tokens."""
    a, b = aligned(a, b)
    return a + b


def aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two tensors [b, ...], of which one may have an axis of tokens after b, so that they can be added."""
    return (a.unsqueeze(1) if a.ndim < b.ndim else a), (b.unsqueeze(1) if b.ndim < a.ndim else b)
