"""What a network is told about each sample, and what it must not see."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vco.api.streams import Times


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the network is told, and what it must not see, per sample.

    A dataclass, because torch.compile understands those. A method may subclass it and add fields that are tensors
    [b, ...] or mappings to such: `map` and `concatenate` keep every field.
    """

    labels: Int[Tensor, " b"]
    """Class index; the number of classes stands for "no label" (null)."""
    blocked: Mapping[tuple[str, str], Bool[Tensor, " b"]] = field(default_factory=dict)
    """(query stream, key stream) -> rows in which that query stream must not attend to that key stream."""
    nulled: Mapping[str, Bool[Tensor, " b"]] = field(default_factory=dict)
    """Stream -> rows in which the network is shown `Guidance.null` instead of the noisy stream."""
    supervised: Mapping[str, Bool[Tensor, " b"]] = field(default_factory=dict)
    """Stream -> rows whose denoising loss counts (the mean runs over them); a stream not named counts in every row."""
    context: Mapping[str, Tensor] = field(default_factory=dict)
    """Anything else that a network is told, by name: captions, earlier predictions, random numbers; [b, ...] each."""
    until: Times = field(default_factory=dict)
    """Stream -> the time that the step goes to, as [b] or [b, n]; empty where the network is asked about one time.

    A loss sets it in `prepare`: `step.asking(times=..., condition=dataclasses.replace(step.condition, until=...))`,
    with an entry for every stream. A loss that asks at other times passes a condition whose `until` is not before
    them, or empty."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """The same condition with `function` applied to every tensor (slicing rows, moving to a device)."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: _mapped(value, function) for name, value in values.items()})

    @classmethod
    def concatenate(cls, conditions: "Iterable[Condition]") -> "Condition":
        """Stacks conditions along the batch, so that several branches take one forward pass.

        Where a part lacks an entry that another one has, its rows get what its absence means: False for `blocked` and
        `nulled`, True for `supervised`, zeros for `context`.

        Raises:
            ValueError: if some parts know the time that the step goes to and others do not, or the parts are not all of
                one class.
        """
        parts = list(conditions)
        if len({type(part) for part in parts}) > 1:
            raise ValueError("conditions of different classes cannot be stacked")
        if len({tuple(sorted(part.until)) for part in parts}) > 1:
            raise ValueError("some conditions know the time that the step goes to (`until`), and others do not")
        names = [f.name for f in dataclasses.fields(parts[0])]
        rows = [len(part.labels) for part in parts]
        stacked = {
            name: _stacked([getattr(part, name) for part in parts], rows, name == "supervised") for name in names
        }
        return dataclasses.replace(parts[0], **stacked)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(item, function) for key, item in value.items()}
    return function(value) if isinstance(value, Tensor) else value


def _stacked(values: Sequence[Any], rows: Sequence[int], absent: bool) -> Any:
    """The values of one field in all parts, one below the other."""
    if isinstance(values[0], Mapping):
        keys = {key: None for value in values for key in value}
        return {
            key: _stacked(_completed([value.get(key) for value in values], rows, absent), rows, absent) for key in keys
        }
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else values[0]


def _completed(entries: Sequence[Tensor | None], rows: Sequence[int], absent: bool) -> list[Tensor]:
    """The entries of one key, with what absence means where a part has none."""
    known = next(entry for entry in entries if entry is not None)
    return [
        known.new_full((count, *known.shape[1:]), float(absent)) if entry is None else entry
        for entry, count in zip(entries, rows, strict=True)
    ]
