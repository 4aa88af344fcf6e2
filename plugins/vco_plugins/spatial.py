"""iREPA's spatial normalisation, which a loss uses on its target and an adapter on the feature stream."""

from typing import Final

from jaxtyping import Float
from torch import Tensor

EPS: Final = 1e-6
"""Added to the standard deviation; iREPA's value."""


def spatial_norm(tokens: Float[Tensor, "b n d"], alpha: float) -> Float[Tensor, "b n d"]:
    """Returns (y - alpha * mean) / (std + 1e-6) with mean and unbiased std over each sample's tokens, per channel.

    Args:
        tokens: tokens y of a whole image.
        alpha: share of the mean that is removed, in [0, 1].

    Source: iREPA (arXiv 2512.10794), spatial normalisation.
    """
    unbiased = int(tokens.shape[1] > 1)  # the deviation of a single token is 0
    return (tokens - alpha * tokens.mean(1, keepdim=True)) / (tokens.std(1, correction=unbiased, keepdim=True) + EPS)
