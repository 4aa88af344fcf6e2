"""The law that every option of a loss does something."""

from typing import Any, Final

import attrs
import torch
from torch import Tensor

from vco.testing.effects import learning_rates, require_every_option_does_something
from vco.testing.law import law
from vco.testing.laws.loss_case import LossCase
from vco.testing.laws.losses import answers
from vco.testing.tensors import clone, leaves

BATCH: Final = 64
"""So many samples that some are of every kind that a loss may tell apart."""


@law(LossCase, once=True)
def options_do_something(case: LossCase) -> None:
    """Every number or switch of its own changes its terms, their gradients, what it asks about, or its learning rate.

    It may do so at another value of some other option alone.
    """
    require_every_option_does_something(attrs.evolve(case, sizes=attrs.evolve(case.sizes, batch=BATCH)), _everything)


def _everything(case: LossCase) -> dict[str, Tensor]:
    """All that a loss does in a step."""
    component = case.build().train()
    inputs = case.inputs(component, 1)
    prepared = case.prepared(component, inputs)
    answered = answers(inputs)
    for x in answered.values():
        x.requires_grad_()
    terms = case.run(component, inputs)
    total = torch.stack([term.mean() for term in terms.values()]).sum()
    if total.requires_grad:
        total.backward()
    gradients = [x.grad for x in (*answered.values(), *component.parameters()) if x.grad is not None]
    observed: dict[str, Any] = {
        "terms": terms,
        "gradients": gradients,
        "step": [prepared.noisy, prepared.times, prepared.condition],
        "taps": torch.tensor(component.taps),
        "rates": learning_rates(component),
    }
    return leaves(clone(observed))
