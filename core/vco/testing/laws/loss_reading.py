"""Laws about what losses read: taps, encoders, random numbers, other samples, and in which precision."""

from typing import Any, Final

import attrs
import torch
from torch import Tensor

from vco.api import Features, Loss, ReadsFeatures, UserError
from vco.testing.case import RefusedError
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.loss_case import LossCase
from vco.testing.laws.losses import answers
from vco.testing.tensors import cast, clone, distance, leaves, require_same

HALVED: Final = ("taps", "predicted", "context", "features", "real")
"""What of a step may come in bfloat16."""


def reads_taps(loss: type[Loss]) -> bool:
    """Whether a loss says that it reads taps."""
    return loss.taps is not Loss.taps


@law(LossCase, about=reads_taps)
def taps_are_matched_by_position(case: LossCase) -> None:
    """Tokens of a tap count at the positions that it names, whether these are all samples' [n] or each one's [b, n].

    In another order they give the same loss, or are refused with a `UserError`.
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    if not inputs["taps"]:
        does_not_apply("it reads no tap at this setting")
    plain = case.run(component, inputs)
    rows = torch.arange(case.batch)[:, None]
    same = torch.arange(case.num_tokens).roll(1)
    own = torch.stack([torch.randperm(case.num_tokens, generator=case.generator(14, i)) for i in range(case.batch)])
    for order, what in ((same, "in another order"), (own, "in an order of each sample's own")):
        for tap, tokens in inputs["taps"].items():
            shuffled = tokens[:, order] if order.ndim == 1 else tokens[rows, order]
            positions = dict.fromkeys(inputs["taps"], torch.arange(case.num_tokens)) | {tap: order}
            given = inputs | {"taps": inputs["taps"] | {tap: shuffled}, "positions": positions}
            try:
                found = case.run(component, given)
            except UserError:
                continue
            require_same(plain, found, f"tokens of tap {tap} {what}")


@law(LossCase, about=reads_taps)
def dropped_tokens_are_understood(case: LossCase) -> None:
    """It understands taps that hold some of the tokens, other ones of each sample, or refuses them in a sentence.

    A `UserError` refuses them; otherwise its terms are finite.
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    if not inputs["taps"]:
        does_not_apply("it reads no tap at this setting")
    kept = case.num_tokens // 2
    own = torch.stack([torch.randperm(case.num_tokens, generator=case.generator(15, i)) for i in range(case.batch)])[
        :, :kept
    ]
    rows = torch.arange(case.batch)[:, None]
    taps = {tap: tokens[rows, own] for tap, tokens in inputs["taps"].items()}
    given = inputs | {"taps": taps, "positions": own}
    try:
        found = case.run(component, given)
    except UserError:
        does_not_apply("it wants the tokens of the whole grid")
    for name, term in found.items():
        require(torch.isfinite(term.detach()).all(), f"{name} is not finite where half of the tokens were dropped")
        fits = term.shape in ((), (case.batch,))
        require(fits, f"where half of the tokens were dropped, {name} has the shape {tuple(term.shape)}")


@law(LossCase, about=lambda loss: issubclass(loss.Config, ReadsFeatures))
def reads_the_encoder_that_is_named(case: LossCase) -> None:
    """With the option `features` it reads the encoder that this names, by default the first, and no other."""
    for named in ("", *case.specs):
        other = attrs.evolve(case, config=attrs.evolve(case.config, features=named))
        component = other.build()
        inputs = other.inputs(component, 1)
        try:
            before, read = other.run(component, inputs), list[str]()
        except RefusedError:
            continue
        for name in case.specs:
            step = other.step(component, inputs)
            for view in ("features", "real", "generated"):
                step.views.memory[view, name] = _moved(getattr(step, view)(name))
            after = case.terms(component, step)
            if any(distance(before[term], after[term]) > 1e-6 for term in before):
                read.append(name)
        expected = named or next(iter(case.specs))
        fits = read == [expected] or (case.varied and not read)  # other options may make it read none
        require(fits, f"with features={named!r} it reads {', '.join(read) or 'none'} instead of {expected}")


def _moved(features: Features) -> Features:
    """Features whose tokens and pooled vectors are other ones, each in its own way."""
    tokens, pooled = features.tokens, features.pooled
    return Features(tokens=tokens.flip(1) - tokens.roll(1, 2), grid=features.grid, pooled=pooled.roll(1, 1) - pooled)


@law(LossCase, about=lambda loss: loss.couples_batch)
def couples_what_it_says(case: LossCase) -> None:
    """If it says `couples_batch`, other samples do change a sample's gradient (else it is needlessly restricted)."""
    component = case.build()
    gradients: list[Tensor] = []
    for seed in (1, 2):
        inputs, other = clone(case.inputs(component, 1)), case.inputs(component, seed)
        for name in ("images", "clean", "target", "predicted", "real", "features", "taps"):
            for path, x in leaves(inputs[name]).items():
                x[1:] = leaves(other[name])[path][1:]
        answered = list(answers(inputs).values())
        for x in answered:
            x.requires_grad_()
        found = torch.autograd.grad(case.total(component, inputs), answered, allow_unused=True)
        given: list[Any] = [gradient for gradient in found if gradient is not None]  # pyright: ignore[reportUnnecessaryComparison]
        gradients.append(torch.cat([gradient[0].flatten() for gradient in given]))
    require(distance(*gradients) > 1e-5, "no other sample changes the gradient of the first")


@law(LossCase)
def is_computed_in_float32(case: LossCase) -> None:
    """Neither autocast nor inputs of bfloat16 make it coarser than float32 arithmetic.

    Inputs are also what networks answer that it asks. With weights, which may multiply in bfloat16, it may be 3 % off.
    """
    component = case.build()
    tolerance = 3e-2 if list(component.parameters()) else 2e-5
    inputs = case.inputs(component, 1)
    coarse = inputs | {name: cast(inputs[name], torch.bfloat16) for name in HALVED}
    fine = inputs | {name: cast(coarse[name], torch.float32) for name in HALVED}
    generated: dict[str, Features] = {}
    for name in case.specs if case.subject.component.needs_features else ():
        # computed before, so that the encoder's share of the work stays out of autocast
        generated[name] = cast(case.step(component, fine).generated(name), torch.bfloat16)

    def terms(halved: bool) -> dict[str, Tensor]:
        asked = attrs.evolve(case, says=_halved if halved else _rounded)
        step = asked.step(component, coarse if halved else fine)
        for name, features in generated.items():
            seen = features if halved else cast(features, torch.float32)
            step.views.memory["generated", name] = seen
        return asked.terms(component, step)

    expected = terms(halved=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        require_same(expected, terms(halved=False), "under bfloat16 autocast", tolerance)
        found = terms(halved=True)
    for name, term in found.items():
        require(term.dtype == torch.float32, f"{name} is {term.dtype} for inputs of bfloat16")
    require_same(expected, found, "for inputs of bfloat16", tolerance)


def _halved(x: Tensor) -> Tensor:
    """In bfloat16."""
    return x.bfloat16()


def _rounded(x: Tensor) -> Tensor:
    """In float32, with values that bfloat16 has."""
    return x.bfloat16().float()
