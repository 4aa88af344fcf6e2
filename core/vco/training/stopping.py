"""Stopping on SIGINT and SIGTERM at a step that all processes agree on."""

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class StopFlag:
    """Notes SIGINT and SIGTERM, and lets all processes agree at which step to stop."""

    def __init__(self) -> None:
        self.signal = 0
        self._former = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._pending: tuple[Any, Tensor] | None = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:  # asked twice: the user does not want to wait for the save
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number

    def close(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """The signal that some process has got, the same answer in all processes; 0 if none.

        The answers travel over the CPU while the next step is computed, so nobody waits for the device.
        """
        if self._group is None:
            return self.signal
        answer = 0
        if self._pending is not None:
            self._pending[0].wait()
            answer = int(self._pending[1].item())
        flag = torch.tensor(self.signal)
        self._pending = (dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True), flag)
        return answer
