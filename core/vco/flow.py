"""The linear path between noise (t = 0) and data (t = 1): corruption, velocity and guidance of velocities.

Source: JiT (arXiv 2511.13720) for the clean-prediction velocity; Kynkäänniemi et al. (arXiv 2404.07724) for
    the interval.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

EPS_T: Final = 0.05
"""Least distance to t = 1 that a velocity is divided by."""


def corrupt(
    clean: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], t: Float[Tensor, " b"], noise_scale: float = 1.0
) -> Float[Tensor, "b *shape"]:
    """Returns x_t = t * clean + (1 - t) * noise_scale * noise in `clean`'s dtype; `noise` is unit normal."""
    t = _per_row(t, clean)
    return (t * clean + (1 - t) * (noise_scale * noise)).to(clean.dtype)


def velocity(
    clean: Float[Tensor, "b *shape"], noisy: Float[Tensor, "b *shape"], t: Float[Tensor, " b"]
) -> Float[Tensor, "b *shape"]:
    """Returns the float32 velocity (clean - noisy) / max(1 - t, 0.05) of a (predicted) clean sample."""
    return (clean.float() - noisy.float()) / (1 - _per_row(t, clean)).clamp(min=EPS_T)


def guided(
    conditional: Float[Tensor, "b *shape"], null: Float[Tensor, "b *shape"], scale: float
) -> Float[Tensor, "b *shape"]:
    """Returns null + scale * (conditional - null); scale 1 is `conditional` itself, to the bit."""
    return conditional if scale == 1 else null + scale * (conditional - null)


def in_interval(t: float, low: float, high: float) -> bool:
    """Whether low < t < high; low = 0 includes t = 0.

    Compared in float32, so that a float64 grid point such as 5 / 50 counts as equal to the bound 0.1 it
    stands for.
    """
    at, above, below = torch.tensor([t, low, high], dtype=torch.float32, device="cpu")
    return bool((low == 0 or above < at) and at < below)


def _per_row(t: Tensor, like: Tensor) -> Tensor:
    """Float32 times as [b, 1, ...]; plain broadcasting would take the last axis, unseen if its size is b."""
    return t.float().reshape(-1, *[1] * (like.ndim - 1))
