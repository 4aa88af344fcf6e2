"""Running averages of the weights that are young: much of them is still the weights that training began with."""

from typing import Final

MUCH: Final = 0.1
"""Share of those weights that a reader of samples and scores should know of."""
USUAL: Final = (0.9999, 0.999, 0.99, 0.9, 0.5)
"""Decay rates that may be proposed."""


def young_average(decay: float | None, steps: int) -> str:
    """A sentence about an average that is still young; empty about one that is not.

    Args:
        decay: its decay rate per step, in [0, 1); None for the last weights themselves.
        steps: optimizer steps since it began, at least 0.
    """
    share = 0.0 if decay is None else decay**steps
    if share <= MUCH:
        return ""
    faster = next((usual for usual in USUAL if usual**steps <= MUCH), None)
    better = "" if faster is None else f", and --train.ema-decays {faster:g} suits so few steps"
    return (
        f"after {steps:,} steps {share:.0%} of the average of the weights (decay {decay:g}) is still the weights that "
        f"training began with: `vco sample` and `vco eval` take the last weights with --ema none{better}"
    )
