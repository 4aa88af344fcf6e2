"""Laws about times: what a loss asks networks about, and what it makes of times and weights of single tokens."""

import attrs
import torch
from torch import Tensor

from vco import flow
from vco.api import IMAGE, Loss
from vco.testing.case import RefusedError
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.loss_case import LossCase
from vco.testing.tensors import require_same

BATCHES = range(1, 5)
"""Seeds of the batches that are tried: a loss may ask about some samples alone, and a batch may have none of these."""


@law(LossCase)
def asks_what_belongs_together(case: LossCase) -> None:
    """It asks about times in [0, 1], about noisy streams of these times, and about steps that do not end before them.

    That holds for the step that `prepare` returns, too. Noisy streams that lie on no straight path from noise to data
    belong to any time.
    """
    case = attrs.evolve(case, judging=True)
    component = case.build().train()
    asked = _prepares(type(component))
    for seed in BATCHES:
        inputs = case.inputs(component, seed)
        step = case.step(component, inputs)
        complaint = case.paths(inputs).complaint(step.noisy, step.times, step.condition.until)
        require(not complaint, f"in the step that prepare() returns {complaint}")
        case.terms(component, step)
        for network in case.asked:
            asked = True
            require(not network.complaints, f"asking step.{network.name}: {' and '.join(network.complaints[:1])}")
    if not asked:
        does_not_apply("it asks no network")


def _prepares(loss: type[Loss]) -> bool:
    """Whether a loss may ask about other times."""
    return loss.prepare is not Loss.prepare


@law(LossCase, about=_prepares)
def says_one_time_if_it_is(case: LossCase) -> None:
    """It says `one_time` if `prepare` gives all streams the same times, and only then."""
    component = case.build().train()
    times = list(case.prepared(component, case.inputs(component, 1)).times.values())
    is_one = all(t.shape == times[0].shape and torch.equal(t, times[0]) for t in times)
    said = case.subject.component.one_time
    require(said or not is_one, "it asks about one time of all streams, and does not declare one_time = True")
    require(is_one or not said, "it declares one_time, and asks about other times of each stream")


@law(LossCase)
def times_of_tokens_are_understood(case: LossCase) -> None:
    """Where every token has a time and a weight of its own, equal ones count as the sample's, or it refuses the step.

    A `UserError` refuses it.
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    of_tokens = inputs | {name: _of_tokens(case, inputs[name]) for name in ("times", "weights", "until")}
    expected = case.run(component, inputs)
    try:
        found = case.run(component, of_tokens)
    except RefusedError:
        does_not_apply("it wants one time for each sample")
    require_same(expected, found, "the same time and weight for every token instead of one for the sample")


def _of_tokens(case: LossCase, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Numbers [b] of every stream as numbers [b, n], one for every token."""
    counts = {name: case.num_tokens if name == IMAGE else case.streams[name].shape[0] for name in numbers}
    spread = {name: x[:, None].repeat(1, counts[name]) for name, x in numbers.items()}
    for name, x in spread.items():
        try:
            flow.spread(x, torch.empty(len(x), *case.streams[name].shape))
        except ValueError as error:
            does_not_apply(str(error))
    return spread
