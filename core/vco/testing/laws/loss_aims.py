"""The law about where losses draw the prediction to."""

from typing import Any, Final

import torch
from torch import Tensor

from vco.api import IMAGE, Features, Loss
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.loss_case import LossCase
from vco.testing.laws.loss_reading import reads_taps

NEAR: Final = 0.03
"""By how much predictions are off, in root mean squares of what they should be: near its minimum a loss is a bowl."""
SIDEWAYS: Final = -0.02
"""Least cosine of the descent with the way back: it may lead nowhere (a loss may let be), not away."""


def _judges_predictions(loss: type[Loss]) -> bool:
    """Whether a loss may be about predictions alone, which are right where they are the clean streams."""
    return not (reads_taps(loss) or loss.needs_teacher or loss.needs_until or loss.replaces_denoising)


@law(LossCase, about=_judges_predictions)
def descent_does_not_lead_away(case: LossCase) -> None:
    """Where all predictions are off by the same little, descent on a loss of them (not of taps) does not lead away.

    Prediction and its features are each looked at for themselves. Losses that ask a network are left out.
    """
    component = case.build()
    for size in (NEAR, -NEAR):
        inputs, shifted = case.inputs(component, 1), _Shifted(case, size)
        clean = {name: shifted(x, per_place=name == IMAGE) for name, x in inputs["target"].items()}
        step = case.step(component, inputs | {"predicted": clean})
        for name in case.specs if case.subject.component.needs_features else ():
            real = step.real(name)
            off = Features(tokens=shifted(real.tokens), grid=real.grid, pooled=shifted(real.pooled))
            step.views.memory["generated", name] = off
        total = torch.stack([term.mean() for term in case.terms(component, step).values()]).sum()
        if case.asked:
            does_not_apply("it asks a network")
        back = shifted.descent(total)
        where = f"where predictions are off by {size:g} root mean squares, descent leads away from clean images"
        require(back > SIDEWAYS, f"{where} (cosine with the way back: {back:.2g})")


class _Shifted:
    """Moves tensors off by the same in every sample (and token), and remembers by how much."""

    def __init__(self, case: LossCase, size: float) -> None:
        self.size, self.draws = size, case.generator(12)
        self.leaves, self.shifts = list[Tensor](), list[Tensor]()

    def __call__(self, x: Tensor, per_place: bool = False) -> Tensor:
        """A tensor that is off; gradients end in it."""
        shift = torch.randn(x.shape[1:] if per_place else x.shape[-1:], generator=self.draws)
        shift = self.size * x.square().mean().sqrt() * shift / shift.square().mean().sqrt()
        self.shifts.append(shift.expand_as(x))
        self.leaves.append((x.detach() + shift).requires_grad_())
        return self.leaves[-1]

    def descent(self, loss: Tensor) -> float:
        """The cosine between the gradient of a loss and the shifts: 1 if descent goes straight back, 0 if nowhere."""
        found: Any = torch.autograd.grad(loss, self.leaves, allow_unused=True)
        pairs = [(g.double(), s.double()) for g, s in zip(found, self.shifts, strict=True) if g is not None and g.any()]
        if not pairs:
            return 0.0
        gradient, shift = (torch.cat([part.flatten() for part in parts]) for parts in zip(*pairs, strict=True))
        return (gradient @ shift / (gradient.norm() * shift.norm())).item()
