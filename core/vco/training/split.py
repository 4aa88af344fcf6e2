"""How a step's time splits over its parts, on the time line of the device that computes it."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final
from unittest import mock

import torch
from torch.profiler import record_function

from vco.training.log import Log
from vco.training.loop import Training

DATA: Final = "data"
ENCODER: Final = "encoder"
FORWARD: Final = "forward"
LOSSES: Final = "losses"
BACKWARD: Final = "backward"
OPTIMIZER: Final = "optimizer + EMA"
REST: Final = "rest"
PARTS: Final[tuple[str, ...]] = (DATA, ENCODER, FORWARD, LOSSES, BACKWARD, OPTIMIZER, REST)
"""Parts of a step, in their order; the rest is what lies between them."""


class Split:
    """Cuts the time of some steps into stretches, each of which belongs to the innermost part that it lies in.

    On a GPU the cuts are events on its own time line, so that nobody waits for it: a stretch is the time that the GPU
    had to do with a part, with the gaps in it. Elsewhere they are times of the host. Parts carry their names into a
    trace of PyTorch's profiler.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self._cuts: list[tuple[str, Any]] = []
        self._within = [REST]

    def cut(self) -> None:
        """Begins a stretch of the present part here."""
        if self.on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._cuts.append((self._within[-1], event))
        else:
            self._cuts.append((self._within[-1], time.perf_counter()))

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """The block is a part of a step."""
        self._within.append(name)
        self.cut()
        try:
            with record_function(name):
                yield
        finally:
            self._within.pop()
            self.cut()

    def seconds(self) -> dict[str, float]:
        """Seconds of each part from the first cut to the last; the device has finished. Begins anew."""
        found = dict.fromkeys(PARTS, 0.0)
        for (name, one), (_, other) in zip(self._cuts, self._cuts[1:], strict=False):
            found[name] += one.elapsed_time(other) / 1000 if self.on_cuda else other - one
        self._cuts = []
        return found

    def inside(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is a part of a step."""

        def called(*given: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*given, **named)

        return called


@contextmanager
def parts_marked(training: Training, log: Log, split: Split) -> Generator[None]:
    """Inside it, the steps of a training are split; the training itself is left as it is.

    The backward pass of losses and encoders is part of "backward"; codec and encoders are "encoder", whoever asks them.

    Args:
        training: after `Training.begin`, before its steps.
        log: what it tells of its steps.
        split: gets the parts.
    """
    objective = training.objective
    marked: dict[str, list[tuple[Any, tuple[str, ...]]]] = {
        DATA: [(training.batches, ("labels", "inputs")), (objective, ("draw",))],
        ENCODER: [
            (objective.codec, ("encode", "draw", "decode")),
            *((source, ("forward", "perceive")) for source in objective.sources.values()),
        ],
        FORWARD: [(objective, ("forward",))],
        LOSSES: [(loss, ("prepare", "forward")) for loss in objective.losses.values()],
        BACKWARD: [(training.accelerator, ("backward",))],
        OPTIMIZER: [(training.optimizer, ("step", "zero_grad")), (training.ema, ("update",))],
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(log.clock, "waiting", partial(split.part, DATA)))
        for name, places in marked.items():
            for owner, methods in places:
                for method in methods:
                    replaced = split.inside(name, getattr(owner, method))
                    stack.enter_context(mock.patch.object(owner, method, replaced))
        yield


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of parts as shares of their sum."""
    whole = sum(seconds.values())
    return {name: value / whole if whole else 0.0 for name, value in seconds.items()}
