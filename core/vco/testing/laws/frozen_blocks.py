"""A law for the blocks that feature sources and codecs name: they can be compiled one by one."""

from typing import Any

from torch import nn

from vco.api import Codec, FeatureSource
from vco.testing.case import FrozenCase
from vco.testing.law import does_not_apply, law, require


def _names_blocks(component: type[Codec] | type[FeatureSource]) -> bool:
    return component.block_modules not in (Codec.block_modules, FeatureSource.block_modules)


@law(FrozenCase, once=True, about=_names_blocks)
def blocks_are_its_own(case: FrozenCase) -> None:
    """The blocks that it names are parts of it, none in another, and each is called as a module."""
    component: Any = case.build()
    blocks, names = list(component.block_modules()), {id(part): name for name, part in component.named_modules()}
    if not blocks:
        does_not_apply("it names no blocks at these settings")
    for number, block in enumerate(blocks):
        require(id(block) in names and block is not component, f"block {number} is no part of it")
        others = [other for other in blocks if other is not block]
        require(len(others) == len(blocks) - 1, f"{names[id(block)]} is named twice")
        inside = [names[id(other)] for other in others if any(other is part for part in block.modules())]
        require(not inside, f"{inside[:1]} is a part of the block {names[id(block)]}")
    called: set[int] = set()

    def note(module: nn.Module, *about: Any) -> None:
        called.add(id(module))

    hooks = [block.register_forward_hook(note) for block in blocks]
    try:
        case.run(component, case.inputs(component, 1))
    finally:
        for hook in hooks:
            hook.remove()
    idle = [names[id(block)] for block in blocks if id(block) not in called]
    require(not idle, f"the block {idle[:1]} is not called, or not as a module")
