"""Gradients of all trained parameters together: their norm, and whether they are finite, whoever holds them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn

from vco.pieces import local, shared_out, true_everywhere


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of parameters that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients as one vector, the same in all processes."""
    pieces = [local(gradient) for gradient in gradients if shared_out(gradient)]
    copied = nn.utils.get_total_norm([gradient for gradient in gradients if not shared_out(gradient)])
    if not pieces:
        return copied
    square = nn.utils.get_total_norm(pieces).square()
    distributed.all_reduce(square)
    return (square + copied.to(square.device).square()).sqrt()


@torch.no_grad()
def clip(gradients: Sequence[Tensor], longest: float) -> Tensor:
    """Scales all gradients so that their norm is at most `longest`, if not 0; returns the norm that they had."""
    length = norm(gradients)
    if longest:
        factor = (longest / (length + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return length


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no number in some tensors is NaN or infinite, the same in all processes that share them out."""
    finite = torch.stack([local(tensor).isfinite().all() for tensor in tensors]).all()
    return bool(true_everywhere(finite) if any(shared_out(tensor) for tensor in tensors) else finite)
