"""Laws for the blocks that backbones name: they can be sharded and recomputed one by one."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from vco.api import Backbone
from vco.testing.blocks import require_separate_parts
from vco.testing.law import ViolationError, does_not_apply, law, require
from vco.testing.laws.backbones import BackboneCase, predicted
from vco.testing.tensors import clone, leaves
from vco.training.recomputing import recompute_blocks


def _names_blocks(component: type[Any]) -> bool:
    return component.block_modules is not Backbone.block_modules


def blocks_of(component: Backbone) -> Sequence[nn.Module]:
    """Its blocks; at some settings it may name none."""
    return component.block_modules() or does_not_apply("it names no blocks at these settings")


@law(BackboneCase, about=_names_blocks)
def blocks_are_run_once(case: BackboneCase) -> None:
    """The blocks that it names are parts of it, none in another, with weights of their own; each is called once."""
    component = case.build()
    blocks = blocks_of(component)
    names = require_separate_parts(component, blocks, "the network")
    for block in blocks:
        own = {id(parameter) for parameter in block.parameters()}
        outside = [module for module in component.modules() if all(module is not part for part in block.modules())]
        held = {id(p): n for module in outside for n, p in module.named_parameters(recurse=False)}
        shared = [name for key, name in held.items() if key in own]
        require(not shared, f"the block {names[id(block)]} shares the weight {shared[:1]} with what is outside of it")
    for training in (False, True):
        calls: Counter[str] = Counter()
        hooks = [block.register_forward_hook(_counting(calls, names[id(block)])) for block in blocks]
        with torch.random.fork_rng(devices=[]):
            case.run(component.train(training), case.inputs(component, 1))
        for hook in hooks:
            hook.remove()
        for block in blocks:
            name = names[id(block)]
            mode = "training" if training else "eval"
            require(calls[name] == 1, f"in {mode} mode the block {name} is called {calls[name]} times, and not once")


def _counting(calls: Counter[str], name: str) -> Callable[..., None]:
    return lambda module, given, answer: calls.update([name])


@law(BackboneCase, about=_names_blocks)
def blocks_may_be_recomputed(case: BackboneCase) -> None:
    """With its blocks computed again in the backward pass, gradients and buffers are the same to the bit."""
    plain, again = _after_a_step(case, recomputed=False), _after_a_step(case, recomputed=True)
    for name, tensor in plain.items():
        require(torch.equal(tensor, again[name]), f"with blocks that are recomputed, the {name} is another one")


def _after_a_step(case: BackboneCase, *, recomputed: bool) -> dict[str, Tensor]:
    """Predictions, gradients and buffers after a backward pass in training mode."""
    component = case.build().train()
    blocks_of(component)
    if recomputed:
        recompute_blocks(component)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        answer = case.run(component, case.inputs(component, 1))
        found = leaves({"prediction": predicted(answer), "context": dict(answer.context)})
        total = torch.stack([x.float().square().sum() for x in found.values() if x.requires_grad]).sum()
        try:
            total.backward()
        except CheckpointError as error:
            raise ViolationError(f"a block does something else when it is called again: {error}") from error
    gradients = {f"gradient of {n}": p.grad for n, p in component.named_parameters() if p.grad is not None}
    return clone({**found, **gradients, **{f"buffer {n}": b for n, b in component.named_buffers()}})
