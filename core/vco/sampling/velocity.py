"""The guided velocity that a solver integrates: every branch of guidance, evaluated by the network and combined."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from vco.api import Condition, Streams
from vco.objective import Objective


class GuidedVelocity:
    """The velocity of all streams under guidance, for one batch of images from noise to data.

    All branches are evaluated in one batched forward pass, but for the branch "weak", which the weak model evaluates.
    What a network hands to its own next call (`Denoised.context`) is kept for each branch on its own; a branch that is
    not evaluated at some times keeps what it had.
    """

    def __init__(
        self, objective: Objective, labels: Int[Tensor, " b"], until: bool = False, by_step: bool = False
    ) -> None:
        """Begins a batch.

        Args:
            objective: the model, with the weak one beside it where guidance has one.
            labels: class of each image.
            until: whether the network is told where a step goes, and answers with mean velocities.
            by_step: whether the second evaluation of a step is guided as its first (`Solver.guides_by_step`).
        """
        self.objective = objective
        self.labels = labels
        self.until = until
        self.by_step = by_step
        self.began: Mapping[str, float] | None = None
        self.context: dict[str, Mapping[str, Tensor]] = {}

    def __call__(self, state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        """The guided velocity of every stream at these times, on the way to `until`."""
        guidance, weak = self.objective.guidance, self.objective.weak
        if self.began is None or not (self.by_step and times == until):
            self.began = times
        told = guidance.branches(self.labels, self.began)
        branches = {name: self._told(name, condition, until) for name, condition in told.items()}
        weaker = {name: branches.pop(name) for name in ("weak",) if weak and name in branches}
        each = self._evaluate(self.objective, state, times, branches)
        if weak and weaker:
            each |= self._evaluate(weak, {stream: state[stream] for stream in weak.specs}, times, weaker)
        return guidance.combine(each, self.began)

    def _told(self, branch: str, condition: Condition, until: Mapping[str, float]) -> Condition:
        """A branch's condition, with what the network has left for it and the time that the step goes to."""
        if branch in self.context:
            condition = replace(condition, context={**condition.context, **self.context[branch]})
        if self.until:
            rows, device = len(condition.labels), condition.labels.device
            ends = {stream: torch.full((rows,), end, device=device) for stream, end in until.items()}
            condition = replace(condition, until=ends)
        return condition

    def _evaluate(
        self, model: Objective, state: Streams, times: Mapping[str, float], branches: Mapping[str, Condition]
    ) -> dict[str, Streams]:
        """Each branch's velocity of each stream."""
        count = len(branches)
        condition = Condition.concatenate(branches.values())
        noisy = {stream: x_t.repeat(count, *[1] * (x_t.ndim - 1)) for stream, x_t in state.items()}
        t = {stream: torch.full((len(x_t),), times[stream], device=x_t.device) for stream, x_t in noisy.items()}
        denoised = model.network(noisy, t, condition)
        velocities = {stream: denoised.velocity[stream].chunk(count) for stream in state}
        contexts = {name: value.chunk(count) for name, value in denoised.context.items()}
        for i, branch in enumerate(branches):
            self.context[branch] = {name: parts[i] for name, parts in contexts.items()}
        return {branch: {stream: parts[i] for stream, parts in velocities.items()} for i, branch in enumerate(branches)}
