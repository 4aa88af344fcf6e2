"""Noise that is drawn on the host while a GPU is busy with the step before, so that neither waits for the other.

A GPU takes no longer for a step than one core for its noise: at 256 pixels one of them draws 1.5 ms for an image and
step, so that 128 images would keep the GPU waiting for 0.2 s. The noise is the same as without threads.
"""

import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import torch

from vco.api import Noise, Streams

MOST_THREADS: Final = 8
"""Threads that draw, at most."""


def drawing_threads(device: torch.device | str) -> int:
    """How many threads draw noise for a device: this process's share of the cores; one where the cores compute."""
    if torch.device(device).type == "cpu":
        return 1
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_THREADS, cores // max(1, int(local) if local.isdecimal() else 1)))


@contextmanager
def one_ahead(draw: Callable[[int], Streams], steps: int) -> Generator[Noise]:
    """The noise of each step; as soon as one is asked for, a thread draws the next one too.

    Args:
        draw: draws the noise of a step, and gives the same for it whenever it is asked.
        steps: how many there are. Nothing is drawn for a solver that asks for none.
    """
    waiting: dict[int, Future[Streams]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="noise") as pool:

        def noise_of(k: int) -> Streams:
            now = waiting.pop(k, None) or pool.submit(draw, k)
            _cancel(waiting)
            if k + 1 < steps:
                waiting[k + 1] = pool.submit(draw, k + 1)
            return now.result()

        try:
            yield noise_of
        finally:
            _cancel(waiting)


def _cancel(waiting: dict[int, Future[Streams]]) -> None:
    for future in waiting.values():
        future.cancel()
    waiting.clear()
