"""The law that every option of a process does something."""

from typing import Any

import torch
from torch import Tensor

from vco.api import UserError
from vco.testing.effects import learning_rates, require_every_option_does_something
from vco.testing.law import law
from vco.testing.laws.processes import ProcessCase, own_losses
from vco.testing.tensors import clone, leaves

POINTS = (1, 9)
"""Numbers of steps whose paths are looked at."""


@law(ProcessCase, once=True)
def options_do_something(case: ProcessCase) -> None:
    """Every number or switch changes times of training, their weights, its losses, paths, or its learning rate.

    It may do so at another value of some other option alone.
    """
    require_every_option_does_something(case, _everything)


def _everything(case: ProcessCase) -> dict[str, Tensor]:
    """All that a process does in training and in sampling."""
    process = case.build()
    times = case.sample(process, 256)
    observed: dict[str, Any] = {
        "times": times,
        "weights": process.weight(times),
        "losses": dict(own_losses(case, process, times)),
        "carrying": torch.tensor([x.requires_grad for x in (*times.values(), *process.weight(times).values())]),
        "rates": learning_rates(process),
        "parameters": dict(process.named_parameters()),
        "trained": torch.tensor([parameter.requires_grad for parameter in process.parameters()]),
    }
    for steps in POINTS:
        try:
            observed[f"path of {steps}"] = process.path(steps)
        except UserError:
            continue
    return leaves(clone(observed))
