"""The linear path between noise (t = 0) and data (t = 1): corruption, velocity and guidance of velocities.

Times are [b], or [b, n] where every token of a stream has its own: n is then the number of the stream's tokens or, of
an image, the number of square patches that fill it.

Source: JiT (arXiv 2511.13720) for the clean-prediction velocity; Kynkäänniemi et al. (arXiv 2404.07724) for
    the interval.
"""

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

EPS_T: Final = 0.05
"""Least distance to t = 1 that a velocity is divided by."""


def corrupt(
    clean: Float[Tensor, "b *shape"],
    noise: Float[Tensor, "b *shape"],
    t: Float[Tensor, "b *n"],
    noise_scale: float = 1.0,
) -> Float[Tensor, "b *shape"]:
    """Returns x_t = t * clean + (1 - t) * noise_scale * noise in `clean`'s dtype; `noise` is unit normal."""
    t = spread(t, clean)
    return (t * clean + (1 - t) * (noise_scale * noise)).to(clean.dtype)


def velocity(
    clean: Float[Tensor, "b *shape"], noisy: Float[Tensor, "b *shape"], t: Float[Tensor, "b *n"]
) -> Float[Tensor, "b *shape"]:
    """Returns the float32 velocity (clean - noisy) / max(1 - t, 0.05) of a (predicted) clean sample."""
    return (clean.float() - noisy.float()) / (1 - spread(t, clean)).clamp(min=EPS_T)


def clean(
    velocity: Float[Tensor, "b *shape"], noisy: Float[Tensor, "b *shape"], t: Float[Tensor, "b *n"]
) -> Float[Tensor, "b *shape"]:
    """Returns noisy + (1 - t) * velocity: the clean sample that a (predicted) velocity leads to; float32."""
    return noisy.float() + (1 - spread(t, noisy)) * velocity.float()


def guided(
    conditional: Float[Tensor, "b *shape"], null: Float[Tensor, "b *shape"], scale: float
) -> Float[Tensor, "b *shape"]:
    """Returns null + scale * (conditional - null); scale 1 is `conditional` itself, to the bit."""
    return conditional if scale == 1 else null + scale * (conditional - null)


def in_interval(t: float, low: float, high: float, closed: bool = False) -> bool:
    """Whether low < t < high; low = 0 includes t = 0. A closed interval has both its ends.

    Compared in float32, so that a float64 grid point such as 5 / 50 counts as equal to the bound 0.1 it
    stands for.
    """
    at, above, below = torch.tensor([t, low, high], dtype=torch.float32, device="cpu")
    if closed:
        return bool(above <= at <= below)
    return bool((low == 0 or above < at) and at < below)


def spread(t: Float[Tensor, "b *n"], like: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape_or_ones"]:
    """Float32 numbers per row or token, in a shape that multiplies the stream `like` element by element.

    Raises:
        ValueError: if there is one number per token and they are not the stream's tokens.
    """
    t = t.float()
    if t.ndim == 1:  # plain broadcasting would take the last axis, unseen if its size is b
        return t.reshape(-1, *[1] * (like.ndim - 1))
    if like.ndim == 3 and t.shape[1] == like.shape[1]:
        return t[..., None]
    if like.ndim == 4:
        height, width = like.shape[2:]
        side = math.isqrt(height * width // t.shape[1])
        if side and height % side == width % side == 0 and height * width == side * side * t.shape[1]:
            patches = t.view(-1, 1, height // side, width // side)
            return patches.repeat_interleave(side, 2).repeat_interleave(side, 3)
    raise ValueError(f"{t.shape[1]} times a sample do not fit a stream of shape {tuple(like.shape[1:])}")
