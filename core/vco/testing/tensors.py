"""Nested inputs and outputs of components: walking, copying, comparing; and guards around a call."""

import dataclasses
import random
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vco.testing.law import require


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`tree` with every tensor replaced by function(tensor, *tensors at the same place of the other trees)."""
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, Mapping):
        return {key: tree_map(function, value, *(o[key] for o in others)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(tree_map(function, *parts) for parts in zip(tree, *others, strict=True))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        return dataclasses.replace(
            tree, **{n: tree_map(function, getattr(tree, n), *(getattr(o, n) for o in others)) for n in names}
        )
    return tree


def leaves(tree: Any) -> dict[str, Tensor]:
    """Every tensor of a tree by its path, as in "clean.image"."""
    if isinstance(tree, Tensor):
        return {"": tree}
    if isinstance(tree, Mapping):
        parts: dict[Any, Any] = dict(tree)
    elif isinstance(tree, list | tuple):
        parts = dict(enumerate(tree))
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        parts = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    else:
        return {}
    return {f"{key}.{path}".rstrip("."): leaf for key, part in parts.items() for path, leaf in leaves(part).items()}


def clone(tree: Any) -> Any:
    """A deep copy of the tensors, without their history."""
    return tree_map(lambda leaf: leaf.detach().clone(), tree)


def on_meta(tree: Any) -> Any:
    """The tensors on the meta device, which has shapes and no values."""
    return tree_map(lambda leaf: leaf.to("meta"), tree)


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """The floating tensors in another dtype."""
    return tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the larger of two tensors; inf for other shapes or what is not finite."""
    if one.shape != other.shape:
        return float("inf")
    a, b = one.detach().double(), other.detach().double()
    if not a.numel() or torch.equal(a, b):
        return 0.0
    gap = (a - b).abs().max() / torch.maximum(a.abs().max(), b.abs().max())
    return float("inf") if not torch.isfinite(gap) else gap.item()


def require_same(one: Any, other: Any, message: str, tolerance: float = 1e-5) -> None:
    """Raises `ViolationError` naming the first tensor of two trees that differs by more than rounding."""
    ones, others = leaves(one), leaves(other)
    require(ones.keys() == others.keys(), f"{message}: {sorted(ones)} became {sorted(others)}")
    for name, leaf in ones.items():
        gap = distance(leaf, others[name])
        require(gap <= tolerance, f"{message}: {name or 'the result'} differs by {gap:.2g} (relative)")


def rows_of(tree: Any, rows: Any, batch: int) -> Any:
    """The given rows of every tensor whose first axis is the batch."""
    return tree_map(lambda leaf: leaf[rows] if leaf.ndim and len(leaf) == batch else leaf, tree)


def row_of(tree: Any, row: int, batch: int) -> dict[str, Tensor]:
    """One row of every tensor that has one for each sample, by its path; what belongs to no sample is left out."""
    return {path: leaf[row] for path, leaf in leaves(tree).items() if leaf.ndim and len(leaf) == batch}


def with_rows(tree: Any, other: Any, rows: Tensor) -> Any:
    """`tree` with the rows where `rows` is true taken from `other`."""
    return tree_map(lambda a, b: torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)), b, a), tree, other)


def scramble(module: nn.Module, seed: int = 0) -> None:
    """Moves every parameter away from its initial value, so that zero-initialised gates hide nothing.

    Weights move by a normal of variance 0.6 / fan-in (outputs stay of the order of the inputs), vectors by 0.2.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and not parameter.is_meta:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
                std = (0.6 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.2
                parameter.add_(std * torch.randn(parameter.shape, generator=generator))


@contextmanager
def no_ambient_draws(what: str) -> Generator[None]:
    """Raises `ViolationError` if what runs inside moves a global random state (torch, NumPy, random)."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]
    yield
    after = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]
    require(torch.equal(before[0], after[0]), f"{what} draws from (or reseeds) torch's global random state")
    # beartype, where tests have installed it, looks at random items of containers
    unchanged = before[1] == after[1] or "beartype" in sys.modules
    require(unchanged, f"{what} draws from (or reseeds) the global state of the module random")
    same = np.array_equal(before[2]["key"], after[2]["key"]) and before[2]["pos"] == after[2]["pos"]
    require(same, f"{what} draws from (or reseeds) NumPy's global random state")
