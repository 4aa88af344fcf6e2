"""Which tensors of other weights a network can take.

What fits is decided by whole parts. A part is a module of a component, such as "backbone.blocks". One that both sides
have must fit to the last tensor; one that a single side has is named, so that nobody takes initial weights for trained
ones.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import attrs
import torch
from torch import Tensor

from vco.api import PublishedWeights
from vco.errors import UserError
from vco.objective import Objective
from vco.storage.weights import WeightsFile

TOLERANCE: Final = 1e-4
"""Largest difference between a fixed table, whose values are at most 1 in size, and the same in a file."""


@attrs.frozen(kw_only=True)
class Match:
    """What two sets of tensors have in common."""

    taken: Mapping[str, Tensor]
    """The tensors of the others that fit, by name."""
    initial: tuple[str, ...]
    """Parts that only the network has."""
    left_out: tuple[str, ...]
    """Parts that only the others have."""


def match(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Match:
    """The tensors that a component can take from others.

    Args:
        own: name, as in an objective's state dict -> tensor of the component as it is.
        theirs: the same of the weights that it is to take.

    Raises:
        UserError: naming the first tensor, of a part that both have, which is missing or has another shape.
    """
    here, there = ({_part(name) for name in tensors} for tensors in (own, theirs))
    for name in {**theirs, **own}:
        if _part(name) in here & there:
            sides = [_shape(tensors.get(name)) for tensors in (theirs, own)]
            if sides[0] != sides[1]:
                raise UserError(f"{name} is {sides[0]} there and {sides[1]} here")
    return Match(
        taken={name: tensor for name, tensor in theirs.items() if name in own},
        initial=tuple(dict.fromkeys(part for name in own if (part := _part(name)) not in there)),
        left_out=tuple(dict.fromkeys(part for name in theirs if (part := _part(name)) not in here)),
    )


def own_names(
    file: WeightsFile, weights: str, objective: Objective, num_classes: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Published weights under the names of an objective, and what of the file is left out.

    Args:
        file: the weights.
        weights: which of the file's, "model" or "ema-0".
        objective: the networks that are to take them; they may be on the meta device.
        num_classes: number of classes of their run.

    Raises:
        UserError: if the backbone does not recognise the file, or a fixed table in it is another one.
    """
    backbone, tensors = objective.backbone, file.sets[weights]
    known = PublishedWeights(
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        settings=file.settings,
        streams=objective.specs,
        num_classes=num_classes,
    )
    names = backbone.from_published(known)
    own = backbone.state_dict()
    tables = {name: table for name, table in backbone.named_buffers() if name not in own}
    found: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        if ours in tables:
            _check_table(theirs, _fitted(tensors[theirs], tables[ours]), tables[ours])
        else:
            found[f"backbone.{ours}"] = _fitted(tensors[theirs], own.get(ours))
    return found, _modules([name for name in tensors if name not in names], names)


def _part(name: str) -> str:
    """The part that a tensor belongs to: its component and the module in it."""
    count = 3 if name.startswith("losses.") else 2
    return ".".join(name.split(".")[:count])


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"[{', '.join(map(str, tensor.shape))}]"


def _fitted(tensor: Tensor, own: Tensor | None) -> Tensor:
    """A tensor in the precision of ours, and in its shape where they differ in axes of length 1 alone."""
    if own is None:
        return tensor
    lengths = [[length for length in shape if length != 1] for shape in (tensor.shape, own.shape)]
    return (tensor.reshape(own.shape) if lengths[0] == lengths[1] else tensor).to(own.dtype)


def _check_table(name: str, theirs: Tensor, ours: Tensor) -> None:
    if theirs.shape != ours.shape:
        raise UserError(f"{name} is {_shape(theirs)} in the file and {_shape(ours)} here")
    if not ours.is_meta and not torch.allclose(theirs, ours.cpu(), rtol=0, atol=TOLERANCE):
        raise UserError(f"{name} in the file has other values than the fixed table of this network")


def _modules(left_out: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Names that were left out, those of a module as one: the shortest beginning that no taken name has."""
    known = {beginning for name in taken for beginning in _beginnings(name)}
    return list(dict.fromkeys(next(b for b in (*_beginnings(name), name) if b not in known) for name in left_out))


def _beginnings(name: str) -> list[str]:
    """Of "a.b.c": "a", "a.b" and itself."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]
