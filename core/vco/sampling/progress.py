"""How sampling is shown while it runs: a bar that moves with every solver step, or a line now and then."""

import sys
import time
from collections.abc import Mapping
from typing import Final

from tqdm import tqdm

from vco.api import Streams

BAR: Final = "{desc}{percentage:3.0f}% |{bar}| {n:.0f}/{total} images [{elapsed}<{remaining}{postfix}]"
SECONDS_BETWEEN_LINES: Final = 10.0


class Progress:
    """The images of one process as they come out of noise; give `step` to `sample` as its `watch`."""

    def __init__(self, total: int, steps: int, *, title: str = "", shown: bool = True, delay: float = 0.0) -> None:
        """Begins.

        Args:
            total: images to make.
            steps: solver steps of each.
            title: what stands in front.
            shown: whether this process shows anything.
            delay: seconds without a sign, so that what is done at once shows nothing.
        """
        self.total, self.steps, self.done, self.batch, self.count = total, steps, 0, 0, 0
        self.times: Mapping[str, float] | None = None
        in_terminal = sys.stderr.isatty()
        self.in_lines = shown and not in_terminal
        self.title = f"{title}: " if title else ""
        # a bar of a fraction of an image, so that it moves while the first batch is made
        self.bar = tqdm(
            total=total,
            desc=title or None,
            bar_format=BAR,
            dynamic_ncols=True,
            disable=not (shown and in_terminal),
            delay=delay,
            leave=not delay,
        )
        self.since = self.last = time.perf_counter()

    def begin(self, images: int) -> None:
        """The next batch has so many images."""
        self.done += self.batch
        self.batch, self.count, self.times = images, 0, None

    def step(self, times: Mapping[str, float], noisy: Streams, velocities: Streams) -> None:
        """The network was evaluated; a solver may ask more than once about the same times."""
        if times == self.times:
            return
        self.times = dict(times)
        self.count = min(self.count + 1, self.steps)
        images = self.done + self.batch * self.count / self.steps
        now = time.perf_counter()
        where = f"step {self.count}/{self.steps}"
        self.bar.set_postfix_str(where, refresh=False)
        self.bar.update(images - self.bar.n)
        if self.in_lines and now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            left = tqdm.format_interval((now - self.since) / images * (self.total - images))
            print(f"{self.title}{self.done}/{self.total} images, {where} of the next, {left} left", flush=True)

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()
