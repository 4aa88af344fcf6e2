"""Whether the blocks that a component names are parts of it, each apart from the others."""

from collections.abc import Sequence

from torch import nn

from vco.testing.law import require


def require_separate_parts(component: nn.Module, blocks: Sequence[nn.Module], called: str = "it") -> dict[int, str]:
    """Raises `ViolationError` unless each block is a part of the component, named once and in no other.

    Args:
        component: what names the blocks.
        blocks: the blocks that it names.
        called: what the component is called in messages.

    Returns:
        The name of every module of the component by its `id`.
    """
    names = {id(part): name for name, part in component.named_modules()}
    for number, block in enumerate(blocks):
        require(id(block) in names and block is not component, f"block {number} is no part of {called}")
        others = [other for other in blocks if other is not block]
        require(len(others) == len(blocks) - 1, f"{names[id(block)]} is named twice")
        inside = [names[id(other)] for other in others if any(other is part for part in block.modules())]
        require(not inside, f"{inside[:1]} is a part of the block {names[id(block)]}")
    return names
