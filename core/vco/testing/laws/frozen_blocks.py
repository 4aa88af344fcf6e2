"""A law for the blocks that feature sources and codecs name: they can be compiled one by one."""

from typing import Any

from torch import nn

from vco.api import Codec, FeatureSource
from vco.testing.blocks import require_separate_parts
from vco.testing.case import FrozenCase
from vco.testing.law import does_not_apply, law, require


def _names_blocks(component: type[Codec] | type[FeatureSource]) -> bool:
    return component.block_modules not in (Codec.block_modules, FeatureSource.block_modules)


@law(FrozenCase, once=True, about=_names_blocks)
def blocks_are_its_own(case: FrozenCase) -> None:
    """The blocks that it names are parts of it, none in another, and each is called as a module."""
    component: Any = case.build()
    blocks = list(component.block_modules())
    if not blocks:
        does_not_apply("it names no blocks at these settings")
    names = require_separate_parts(component, blocks)
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
