"""Recomputing: a block of the network keeps what enters it, and is computed a second time in the backward pass.

It takes about a third more arithmetic, and the memory of one block in place of that of all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from vco.api import Backbone
from vco.transforms import in_transform


def recompute_blocks(backbone: Backbone) -> None:
    """Lets each block be recomputed, with the dropout and the arithmetic (autocast) that it had; no bit changes.

    What a module's hooks do (sharding gathers weights) is done around the recomputed part. Names of parameters stay as
    they are, and copies of the backbone, such as averages, have blocks of their own. Where no gradient is wanted,
    nothing is kept or recomputed; inside of transforms such as `torch.func.jvp`, which recomputing would lose, all is
    kept.

    Source: Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
    """
    for block in backbone.block_modules():
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if in_transform():
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, **named)
