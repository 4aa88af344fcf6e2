"""Distances between the vectors of a batch, and which of them are needed."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Squared Euclidean distance of every row of `a` to every row of `b`, at least 0, in the precision of `a`.

    |a|^2 + |b|^2 - 2 a b cancels in float32, and a GPU may round that product to ten bits. In float64 its error is
    below that of a float32, and it takes a fraction of the time of summing up differences.
    """
    x = a.double()
    y = x if b is a else b.double()
    squares = (x @ y.T).mul_(-2).add_(x.square().sum(1, keepdim=True)).add_(y.square().sum(1))
    return squares.clamp_min_(0).to(a.dtype)


def blocks(labels: Int[Tensor, " b"]) -> Sequence[Int[Tensor, " n"] | slice]:
    """Rows of a batch that may see each other, every row once: on a CPU those of each class, elsewhere all of them.

    A problem of all rows has the same answer where a mask keeps classes apart. A CPU saves what the mask throws away;
    on a GPU that is cheap, and to read the classes the host would have to wait for it.
    """
    if labels.device.type != "cpu":
        return [slice(None)]
    ordered, counts = labels.argsort(stable=True), labels.unique(return_counts=True)[1]
    return [slice(None)] if len(counts) == 1 else ordered.split(counts.tolist())
