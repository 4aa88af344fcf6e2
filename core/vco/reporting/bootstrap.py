"""Intervals over seeds: how far a mean, or the difference of two means, may be off by the luck of a few runs."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

LEVEL: Final = 0.95
"""Confidence of the intervals."""
RESAMPLES: Final = 10_000
FEWEST: Final = 2
"""Values below which nothing is known of the noise."""

Array = np.ndarray[Any, np.dtype[np.float64]]


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Where the mean lies, with 95 % confidence, if more seeds were run.

    Args:
        values: one per seed, at least two.
        seed: of the resamples.
    """
    deviations = _deviations(values, np.random.default_rng(seed))
    return _around(float(np.mean(values)), deviations, float(len(values) - 1))


def difference(one: Sequence[float], other: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Where the mean of `one` less that of `other` lies, with 95 % confidence. Arguments as `interval`."""
    random = np.random.default_rng(seed)
    deviations = _deviations(one, random) - _deviations(other, random)
    variances = [float(np.var(values, ddof=1)) / len(values) for values in (one, other)]
    known = [variance**2 / (len(values) - 1) for variance, values in zip(variances, (one, other), strict=True)]
    freedom = sum(variances) ** 2 / sum(known) if sum(known) else float(len(one) + len(other) - 2)
    return _around(float(np.mean(one) - np.mean(other)), deviations, freedom)


def _deviations(values: Sequence[float], random: np.random.Generator) -> Array:
    """How far resampled means lie from the mean; a resample of n values varies too little by (n - 1) / n."""
    sample, n = np.asarray(values, dtype=np.float64), len(values)
    assert n >= FEWEST
    resampled = sample[random.integers(n, size=(RESAMPLES, n))].mean(1)
    return (resampled - sample.mean()) * np.sqrt(n / (n - 1))


def _around(middle: float, deviations: Array, freedom: float) -> tuple[float, float]:
    """The interval of 95 % of the deviations, widened because the spread itself is a guess from a few values.

    Plain bootstrap intervals of three values miss the truth in one case out of five. Student's t over the normal
    quantile puts that right; of a difference, with the degrees of freedom of Welch's test.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015, on
    small samples.
    """
    from scipy.special import ndtri, stdtrit

    upper = (1 + LEVEL) / 2
    low, high = middle + np.quantile(deviations, [1 - upper, upper]) * stdtrit(freedom, upper) / ndtri(upper)
    return float(low), float(high)
