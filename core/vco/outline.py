"""Tensors that have shapes and no content, so that a network of any size is built in no time."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FILLED: Final = (Tensor.uniform_, Tensor.normal_, Tensor.exponential_, Tensor.bernoulli_, Tensor.random_)
"""What fills a tensor with random numbers."""
INITIALISING: Final = "torch.nn.init"
"""Module of the functions that fill weights."""


@contextmanager
def outline() -> Generator[None]:
    """Inside it, tensors are made on the meta device, and nothing is drawn or filled in.

    PyTorch's own meta device would do, but that it loads the compiler to say which shape a random tensor or a product
    has, and that takes longer than all else that a dry run does.
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in FILLED or getattr(func, "__module__", "") == INITIALISING:
            tensor = args[0] if args else given.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        if func in MADE:
            given.pop("generator", None)
            return MADE[func](*args, **given)
        return func(*args, **given)


def _square(n: int, m: int | None = None, **options: Any) -> Tensor:
    return torch.empty(n, n if m is None else m, **options)


def _product(a: Tensor, b: Any) -> Tensor:
    if not a.is_meta or any(isinstance(factor, Tensor) and factor.requires_grad for factor in (a, b)):
        return a * b
    shape = torch.broadcast_shapes(a.shape, b.shape) if isinstance(b, Tensor) else a.shape
    return torch.empty(shape, dtype=torch.result_type(a, b))


MADE: Final[Mapping[Any, Callable[..., Tensor]]] = {
    torch.rand: torch.empty,
    torch.randn: torch.empty,
    torch.rand_like: torch.empty_like,
    torch.randn_like: torch.empty_like,
    torch.eye: _square,
    Tensor.mul: _product,
}
"""What makes tensors -> what makes them without content."""
