"""The law about the weights that a loss gets which takes the place of the denoising loss."""

from typing import Any

import torch
from torch import Tensor

from vco.api import Loss
from vco.testing.law import law, require
from vco.testing.laws.loss_case import LossCase
from vco.testing.tensors import distance


def _replaces_denoising(loss: type[Loss]) -> bool:
    """Whether a loss has to multiply what it gets of each stream by the stream's weight."""
    return loss.replaces_denoising


@law(LossCase, about=_replaces_denoising)
def denoising_weights_count(case: LossCase) -> None:
    """In place of the denoising loss it goes by `denoising_weights`: at 0 a stream gets no gradient, twice gives twice.

    So `--train.stream-weights`, the process's weights and what guidance leaves unsupervised mean what they say. The
    gradients are those of the stream's prediction, in the step and where the loss asks the network again.
    """
    weights = case.inputs(case.build(), 1)["weights"]
    before = _pulls(case, weights)
    twice = _pulls(case, {name: 2 * weight for name, weight in weights.items()})
    for name, weight in weights.items():
        gap = distance(2 * before[name], twice[name])
        require(gap < 1e-3, f"with twice the denoising weights the gradient of {name} is off from twice by {gap:.2g}")
        rows = torch.arange(case.batch) % 2 == 0
        for none in (rows, torch.ones_like(rows)):
            found = _pulls(case, weights | {name: torch.where(none, 0.0, weight)})[name]
            row = int((none & (found.flatten(1).abs().amax(1) > 0)).int().argmax())
            require(not found[none].any(), f"{name} of row {row} gets a gradient although its denoising weight is 0")
        again = [network.name for network in case.asked if name in network.pulled]
        require(
            not again, f"{name} gets a gradient where step.{''.join(again[:1])} is asked, although its weights are 0"
        )


def _pulls(case: LossCase, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of every stream's prediction, with these denoising weights; `case.asked` notes other answers'."""
    component = case.build().train()
    inputs: dict[str, Any] = case.inputs(component, 1) | {"weights": weights}
    for x in inputs["predicted"].values():
        x.requires_grad_()
    total = case.total(component, inputs)
    if total.requires_grad:
        total.backward()
    return {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in inputs["predicted"].items()}
