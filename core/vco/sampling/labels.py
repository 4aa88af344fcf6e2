"""Which class each sampled image has: a function of (seed, image index), whatever the batch or process count."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from vco.errors import UserError
from vco.randomness import generator

BALANCED = "balanced"
"""Image i has class i modulo the number of classes."""
AS_DATA = "data"
"""Classes are drawn with the frequencies of the training data."""


class LabelLaw:
    """Gives every image its class."""

    def __init__(self, said: str, class_counts: Sequence[int], seed: int) -> None:
        """Reads what the user said.

        Args:
            said: "balanced", "data", or class numbers as in "0,3,7", which images take in turn.
            class_counts: training images of each class.
            seed: seed of drawn classes.

        Raises:
            UserError: if it is none of these, or a number is no class.
        """
        self.said = said
        self.seed = seed
        classes = len(class_counts)
        self.turn = list(range(classes))
        self.shares: Tensor | None = None
        if said == AS_DATA:
            self.shares = torch.tensor(class_counts, dtype=torch.float64).cumsum(0) / sum(class_counts)
        elif said != BALANCED:
            numbers = [part.strip() for part in said.split(",") if part.strip()]
            if not numbers or not all(number.isdecimal() and int(number) < classes for number in numbers):
                raise UserError(
                    f"labels {said!r:.60}: write balanced, data, or numbers of classes from 0 to {classes - 1}, as in 0,3"
                )
            self.turn = [int(number) for number in numbers]

    def __call__(self, indices: Sequence[int]) -> Int[Tensor, " n"]:
        """The classes of these images."""
        if self.shares is None:
            return torch.tensor([self.turn[index % len(self.turn)] for index in indices], dtype=torch.long)
        draws = [float(torch.rand((), generator=generator(self.seed, "label", index))) for index in indices]
        found = torch.searchsorted(self.shares, torch.tensor(draws, dtype=torch.float64), right=True)
        return found.clamp(max=len(self.shares) - 1)
