"""What is done about a gradient that is not finite: the run stops, leaves the step out, or goes back."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn

from vco.errors import TrainingStoppedError
from vco.training.gradients import all_finite, gradients_of

MOST: Final = 20
"""Steps in a row that are left out, and times that a run goes back, before it stops all the same."""


class Finite:
    """Guards the weights, the averages and the buffers of a run against gradients with NaN or infinity.

    The gradient that data-parallel processes have averaged is the same in all of them, and those that share it out tell
    each other, so that all decide alike. With the policy "stop" nothing is looked at here: what is logged is, and what
    is saved. The other two wait for the device once a step.
    """

    def __init__(
        self, policy: Literal["stop", "skip", "rollback"], module: nn.Module, parameters: Mapping[str, Tensor]
    ) -> None:
        self.policy = policy
        self.parameters = parameters
        self.buffers = dict(module.named_buffers())
        self.skipped = 0
        """Steps that were left out."""
        self.returns = 0
        """Times that the run went back."""
        self._in_a_row = 0
        self._kept: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Remembers the buffers, which a forward pass may change before its gradient is known."""
        if self.policy != "stop":
            self._kept = {name: value.clone() for name, value in self.buffers.items()}

    @torch.no_grad()
    def spoilt(self) -> bool:
        """Whether the gradient is not finite; then it is dropped, and the buffers are as they were.

        Raises:
            TrainingStoppedError: if that has happened too often.
        """
        if self.policy == "stop":
            return False
        if all_finite(gradients_of(self.parameters.values())):
            self._in_a_row = 0
            return False
        for parameter in self.parameters.values():
            parameter.grad = None
        for name, value in self.buffers.items():
            value.copy_(self._kept[name])
        self._in_a_row += 1
        if self.policy == "skip":
            self.skipped += 1
        else:
            self.returns += 1
        if max(self._in_a_row, self.returns) > MOST:
            what = (
                f"{MOST} steps in a row were left out" if self.policy == "skip" else f"the run went back {MOST} times"
            )
            raise TrainingStoppedError(
                f"training stopped: gradients with NaN or infinity go on after {what} (--train.on-nan {self.policy}); "
                "begin a new run from these weights with a lower --train.learning-rate (--from)"
            )
        return True

    def counts(self) -> dict[str, float]:
        """What is logged."""
        return {} if self.policy == "stop" else {"skipped_steps": float(self.skipped), "returns": float(self.returns)}


def require_finite(values: Mapping[str, float], step: int, checkpoints: Path) -> None:
    """Raises `TrainingStoppedError` if a value that was measured after a step is NaN or infinite.

    Args:
        values: name -> value.
        step: optimizer steps done.
        checkpoints: the folder of the run's checkpoints, for the message.
    """
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        some = checkpoints.exists()
        saved = f"the checkpoints in {checkpoints} are from before that" if some else "nothing was saved yet"
        raise TrainingStoppedError(
            f"training stopped: {', '.join(bad)} became NaN or infinite by step {step}; {saved}. Add "
            "--train.on-nan skip (or rollback) to the same command, or begin a new run with a lower "
            "--train.learning-rate (--from goes on with these weights)"
        )
