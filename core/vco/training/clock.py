"""Where the time of a training goes: waiting for images, the steps themselves, and everything else."""

import time
from collections.abc import Generator
from contextlib import contextmanager

import torch


class Clock:
    """Measures one stretch of a training after another, and never waits for the device within a step.

    A GPU works behind the host: while the host waits for images, it may still be busy. What counts as waiting there is
    the time in which the device itself had nothing to do, between two marks on its own time line.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_cuda = device.type == "cuda"
        self._begin()

    def _begin(self) -> None:
        self.since = time.perf_counter()
        self.waited = 0.0
        self.rested = 0.0
        self.marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Generator[None]:
        """The block waits for images."""
        if self.on_cuda:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            yield
            pair[1].record()
            self.marks.append(pair)
        else:
            since = time.perf_counter()
            yield
            self.waited += time.perf_counter() - since

    @contextmanager
    def aside(self) -> Generator[None]:
        """The block samples, scores, saves or reports; it waits for the steps before it, which are not its own time."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)
        since = time.perf_counter()
        try:
            yield
        finally:
            self.rested += time.perf_counter() - since

    def leave_out(self, seconds: float) -> None:
        """So many seconds since the last call of `split` were spent within steps on what is none of them: compiling."""
        self.rested += seconds

    def split(self, steps: int) -> dict[str, float]:
        """Seconds per step since the last call: `seconds.data`, `seconds.step` and `seconds.rest`.

        The device has to be done with all steps; whoever reads their losses has waited for that.
        """
        if self.marks:
            torch.cuda.synchronize(self.device)
            self.waited = sum(first.elapsed_time(last) for first, last in self.marks) / 1000
        whole = time.perf_counter() - self.since
        parts = {"data": self.waited, "step": max(0.0, whole - self.waited - self.rested), "rest": self.rested}
        self._begin()
        return {f"seconds.{name}": seconds / steps for name, seconds in parts.items()}
