"""Statistics of vectors that arrive in batches: one pass, float64, independent of the batching.

Adapters are fitted to them, and metrics compare them.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

EPS: Final = 1e-5
"""Added to variances before dividing by their root; RAE's value, and batch norm's."""


class Covariance:
    """Mean and covariance of vectors that arrive in batches."""

    mean: Float[Tensor, " d"]

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, vectors: Float[Tensor, "*rows d"]) -> None:
        """Takes some more vectors into account."""
        rows = vectors.double().flatten(0, -2)
        mean = rows.mean(0)
        centred = rows - mean
        self.merge(len(rows), mean, centred.T @ centred)

    def merge(self, count: int, mean: Float[Tensor, " d"], scatter: Float[Tensor, "d d"]) -> None:
        """Takes into account what is known of other vectors: their number, mean, and summed outer products about it."""
        delta = mean - self.mean
        self.count += count
        # merging centred moments, where a difference of raw ones would cancel [Chan et al. 1983]
        weight = count / self.count
        self.scatter += scatter + torch.outer(delta, delta) * (weight * (self.count - count))
        self.mean += delta * weight

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The population covariance of all vectors so far."""
        return self.scatter / self.count


class MeanSquare:
    """Mean square of numbers that arrive in batches."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Takes some more numbers into account."""
        self.count += values.numel()
        self.total = self.total + values.double().square().sum()

    @property
    def root(self) -> Tensor:
        """The root mean square (RMS) of all numbers so far."""
        return torch.as_tensor(self.total / self.count).sqrt()


def principal(covariance: Float[Tensor, "d d"], count: int) -> tuple[Float[Tensor, " r"], Float[Tensor, "d r"]]:
    """The `count` largest eigenvalues, falling, and their eigenvectors as columns, each with its largest entry above 0.

    From the whole covariance, where incremental PCA would be approximate and depend on the order of the batches.
    """
    variances, directions = torch.linalg.eigh(covariance)
    directions = directions.flip(1)[:, :count]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return variances.flip(0)[:count], directions * largest.sign()
