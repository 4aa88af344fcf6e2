"""One optimizer step: forward and backward pass of every part of the batch, then weights and averages move."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vco.compiling import compiled
from vco.randomness import seed_of
from vco.run import Run
from vco.training.batches import Batches
from vco.training.ema import EMA
from vco.training.finite import Finite
from vco.training.gradients import clip, gradients_of
from vco.training.log import Log
from vco.training.optimizer import learning_rate, require_gradients, set_learning_rate
from vco.training.sharding import Shards
from vco.training.upcoming import Upcoming


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Does the steps of a run, with all that moves in one."""

    run: Run
    model: Any
    """The run's objective, as a step calls it: so that processes average its gradients."""
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: EMA
    finite: Finite
    batches: Batches
    accelerator: Accelerator

    def step(
        self, number: int, place: int, upcoming: Upcoming, log: Log, *, first: bool = False
    ) -> dict[str, Tensor] | None:
        """Moves the weights, unless the gradient is not finite and such steps are left out.

        Args:
            number: steps done before; the learning rate and the losses' schedules go by it.
            place: place of the batch in the sequence of batches; all random numbers go by it.
            upcoming: hands out the images of this batch next.
            log: hears of the gradient's norm, and of a step that is left out.
            first: whether no step was done before by this process; then every parameter must get a gradient.

        Returns:
            The mean losses of this process's share by name; None where the step was left out.
        """
        config, objective, batches = self.run.config.train, self.run.objective, self.batches
        seed = self.run.config.seed
        # Whatever draws from the ambient generator (dropout) is then counted too.
        torch.manual_seed(seed_of(seed, "ambient", place, self.accelerator.process_index))
        self.finite.begin()
        labels = batches.labels(place)
        set_learning_rate(self.optimizer, objective, learning_rate(config, number), number)

        draw = objective.draw(labels, seed=seed, step=place)
        sums: dict[str, Tensor] = {}
        parts = config.accumulation
        for part in range(parts):
            if part and self._process_learns:  # its times carry a graph, which one backward pass uses up
                draw = objective.draw(labels, seed=seed, step=place)
            rows = batches.rows(part)
            batch = upcoming.next()
            assert torch.equal(batch.labels, labels[rows]), "images and conditions are of the same samples"
            last = part == parts - 1
            with compiled(), nullcontext() if last else self.accelerator.no_sync(self.model):
                share = draw.map(lambda rows_of: batches.send(rows_of[rows]))  # noqa: B023 (used at once)
                losses: dict[str, Tensor] = self.model(batches.inputs(batch, part, place), share, number)
                self.accelerator.backward(losses["loss"] / parts)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / parts
        sharded = isinstance(self.model, Shards)
        if first or sharded:
            require_gradients(self.run)
        if sharded:
            self.model.average_copied()
        if config.clip_gradients or log.watch.looks:
            log.gradient_norm = clip(gradients_of(self.parameters.values()), config.clip_gradients)
        if self.finite.spoilt():
            log.forget_step()
            return None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        return sums

    @property
    def _process_learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.run.objective.process.parameters())
