"""Laws for losses: what they return, and where gradients go."""

from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import FEATURES
from vco.testing.law import law, require
from vco.testing.laws.loss_case import LossCase
from vco.testing.tensors import leaves, require_same, rows_of


def answers(inputs: Any) -> dict[str, Tensor]:
    """What the network says about a step, by name: predictions, taps, and what it wants to be told again."""
    said = {"the prediction of": inputs["predicted"], "tap": inputs["taps"], "the context": inputs["context"]}
    return leaves(said)


@law(LossCase)
def gives_named_terms(case: LossCase) -> None:
    """It returns at least one term, each float32 with one value a sample, or a scalar."""
    component = case.build()
    terms = case.run(component, case.inputs(component, 1))
    require(terms, "it returns no term")
    for name, term in terms.items():
        fits = term.shape in ((), (case.batch,)) and term.dtype == torch.float32
        require(fits, f"{name} is {term.dtype} {tuple(term.shape)} for {case.batch} samples")


@law(LossCase)
def gradient_reaches_prediction(case: LossCase) -> None:
    """A finite gradient reaches the network's predictions, taps or second answers, by default in every sample.

    Of several taps that it reads, some may be what others are compared with.
    """
    component = case.build().train()
    inputs = case.inputs(component, 1)
    answered = answers(inputs)
    for x in answered.values():
        x.requires_grad_()
    case.total(component, inputs).backward()
    gradients = {name: x.grad for name, x in answered.items() if x.grad is not None}
    for name, gradient in gradients.items():
        require(torch.isfinite(gradient).all(), f"{name} has a gradient that is not finite")
    reached = {name: (g.flatten(1).abs().amax(1) > 0) for name, g in gradients.items()}
    asked_again = any(network.is_reached for network in case.asked)
    require(reached or asked_again, "no gradient reaches the prediction, a tap, or what the network was asked again")
    if asked_again or not reached:  # of which row it was asked again cannot be told
        return
    rows = torch.stack(list(reached.values())).any(0)
    if inputs["taps"] and not any(f"tap.{k}" in reached for k in inputs["taps"]):
        require(False, f"no gradient reaches the taps {', '.join(map(str, inputs['taps']))}, which it declares")
    if case.varied:  # options may leave some samples out
        rows = rows.any()[None]
    require(rows.all(), f"no gradient reaches row {int((~rows).int().argmax())} of {case.batch}")


@law(LossCase)
def no_gradient_into_targets(case: LossCase) -> None:
    """No gradient flows into the clean streams and targets that predictions are compared with, and so into an adapter.

    An adapter that learns could make the comparison trivial. The image stream is never learned. What flows through the
    noisy streams that networks are shown is not looked at: from them an adapter may learn. But a velocity that was made
    of a clean prediction holds the noisy stream itself, and so the clean one: compared with `flow.velocity(target,
    step.noisy, step.times)`, in which it cancels, it lets no gradient through.
    """
    case = attrs.evolve(case, hears=_without_gradient)
    component = case.build().train()
    inputs = case.inputs(component, 1)
    fixed = {f"{what}.{FEATURES}": inputs[what][FEATURES] for what in ("clean", "target")}
    for x in (*answers(inputs).values(), *fixed.values()):
        x.requires_grad_()
    case.total(component, inputs).backward()
    weights = [weight for network in case.asked for weight in network.module.parameters()]
    most = max(
        (x.grad.abs().max().item() for x in (*answers(inputs).values(), *weights) if x.grad is not None), default=0
    )
    for name, x in fixed.items():
        found = 0.0 if x.grad is None else x.grad.abs().max().item()
        require(found <= 1e-5 * most, f"a gradient flows into {name}")


def _without_gradient(x: Tensor) -> Tensor:
    """A view through which no gradient goes back; derivatives in forward mode pass."""
    x = x.view_as(x)
    if x.requires_grad:
        x.register_hook(torch.zeros_like)
    return x


@law(LossCase)
def gradients_reach_its_weights(case: LossCase) -> None:
    """Each of its own trainable weights gets a finite gradient that is not zero."""
    component = case.build().train()
    weights = {name: p for name, p in component.named_parameters() if p.requires_grad}
    if not weights:
        return
    case.total(component, case.inputs(component, 1)).backward()
    for name, parameter in weights.items():
        gradient = parameter.grad
        require(gradient is not None and gradient.abs().sum() > 0, f"no gradient reaches {name}")
        require(gradient is not None and torch.isfinite(gradient).all(), f"{name} has a gradient not finite")


@law(LossCase)
def order_of_samples_is_irrelevant(case: LossCase) -> None:
    """Exchanging samples within their class groups, and groups, exchanges their values and no more."""
    component = case.build()
    inputs = case.inputs(component, 1)
    groups = torch.arange(case.batch).split(case.group)
    order = torch.cat([group.flip(0) for group in reversed(groups)])
    before = rows_of(case.run(component, inputs), order, case.batch)
    require_same(before, case.run(component, rows_of(inputs, order, case.batch)), "the samples in another order")


@law(LossCase, once=True)
def weight_is_not_applied_twice(case: LossCase) -> None:
    """It returns unweighted terms: the training step multiplies by `config.weight`."""
    other = attrs.evolve(case, config=attrs.evolve(case.config, weight=3 * case.config.weight + 1))
    component = case.build()
    inputs = case.inputs(component, 1)
    require_same(case.run(component, inputs), other.run(other.build(), inputs), "another config.weight", 0.0)
