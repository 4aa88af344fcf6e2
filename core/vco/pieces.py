"""Tensors that the processes of a run share out by rows: the piece that a process holds, and the whole of it.

Sharded training (`vco.training.sharding`) makes such tensors, PyTorch's `DTensor`; everything else is held whole.
"""

import sys
from typing import TYPE_CHECKING, TypeGuard

import attrs
from torch import Tensor, distributed, nn

from vco.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement


@attrs.frozen(kw_only=True)
class Piece:
    """What a process holds of a tensor: some of its rows, or all of it."""

    rows: Tensor
    """These rows; they share memory with the tensor."""
    start: int = 0
    """Number of the first of them."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the tensor is missing."""
        return tuple(self.rows.shape) == self.shape


def shared_out(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether processes share out a tensor."""
    # importing it takes a second, and nobody has made such a tensor before that was done
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def piece_of(tensor: Tensor) -> Piece:
    """What this process holds of a tensor.

    Raises:
        UserError: if it is shared out in another way than by rows over all processes.
    """
    shape = tuple(tensor.shape)
    if not shared_out(tensor):
        return Piece(rows=tensor.detach(), shape=shape)
    placements: tuple[Placement, ...] = tensor.placements
    if all(placement.is_replicate() for placement in placements):
        return Piece(rows=local(tensor), shape=shape)
    if len(placements) > 1 or not all(placement.is_shard(0) for placement in placements):
        raise UserError(
            f"a tensor of shape {shape} is shared out as {placements}, which no checkpoint can hold: its plugin (the "
            "optimizer's, most likely) has to share it out by rows, or leave it whole"
        )
    most = -(-shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * most, shape[0])
    return Piece(rows=local(tensor), start=start, shape=shape)


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process holds; they share memory with it, and carry no gradient."""
    return tensor.to_local().detach() if shared_out(tensor) else tensor.detach()


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor; where it is shared out, every process has to call this."""
    return tensor.full_tensor() if shared_out(tensor) else tensor


def in_pieces(module: nn.Module) -> bool:
    """Whether processes share out weights of a module, so that all of them have to take part in asking it."""
    return any(shared_out(parameter) for parameter in module.parameters())


def true_everywhere(flag: Tensor) -> Tensor:
    """Whether a flag (a bool) holds in all processes, of which each knows its own pieces."""
    agreed = flag.int()
    distributed.all_reduce(agreed, op=distributed.ReduceOp.MIN)
    return agreed.bool()
