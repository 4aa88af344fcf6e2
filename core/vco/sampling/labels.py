"""Which classes are sampled: laws that give the label of every image as a function of (seed, image index)."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from vco.errors import UserError
from vco.randomness import generator

BALANCED: Final = "balanced"
"""Image i has the label i modulo the number of classes."""
AS_DATA: Final = "data"
"""Labels in the proportions of a data set: every stretch of its size has exactly its numbers of images per class."""
LAWS: Final = (BALANCED, AS_DATA)


def labels_of(
    law: str, indices: Sequence[int], *, num_classes: int, counts: Sequence[int] = (), seed: int = 0
) -> Int[Tensor, " n"]:
    """The label of each image, whatever the batch or the number of processes.

    Args:
        law: one of `LAWS`, or classes with commas, as in "3,1,4", which are repeated.
        indices: number of each image, from 0.
        num_classes: number of classes; labels are in [0, num_classes).
        counts: images per class of the data set; the law "data" needs them.
        seed: seed of the order in which the law "data" yields its labels.

    Raises:
        UserError: if the law is none of these, or names a class that does not exist.
    """
    index = torch.tensor(list(indices), dtype=torch.long)
    if law == BALANCED:
        return index % num_classes
    if law == AS_DATA:
        if not sum(counts):
            raise UserError("labels as in the data need the data set's images per class, which are not known here")
        return _as_data(index, torch.tensor(list(counts)), seed)
    listed = [part.strip() for part in law.split(",")]
    if not all(part.isdecimal() for part in listed):
        raise UserError(f"{law!r} is no law of labels; write {', '.join(LAWS)}, or classes with commas, as in 0,3,3")
    if beyond := [part for part in listed if int(part) >= num_classes]:
        raise UserError(f"there is no class {beyond[0]}; classes are numbered from 0 to {num_classes - 1}")
    return torch.tensor([int(part) for part in listed])[index % len(listed)]


def _as_data(index: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Labels from an endless sequence of shuffled copies of the data set's labels."""
    ordered = torch.repeat_interleave(torch.arange(len(counts)), counts)
    rounds = index // len(ordered)
    labels = torch.empty_like(index)
    for turn in rounds.unique().tolist():
        here = rounds == turn
        shuffled = ordered[torch.randperm(len(ordered), generator=generator(seed, "labels", turn))]
        labels[here] = shuffled[index[here] % len(ordered)]
    return labels
