"""How a training is shown while it runs: a bar in a terminal, a line now and then where the output goes to a file."""

import sys
import time
from collections.abc import Mapping
from typing import Final, TextIO

from tqdm import tqdm

BAR: Final = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
SECONDS_BETWEEN_LINES: Final = 10.0


def in_terminal(stream: TextIO | None = None) -> bool:
    """Whether somebody watches: a progress bar in a file would be one endless line."""
    return (stream or sys.stderr).isatty()


class Progress:
    """The steps of a training as they are done, on the screen of the first process."""

    def __init__(self, *, total: int, start: int, shown: bool) -> None:
        """Begins.

        Args:
            total: steps of the run in all.
            start: steps done before.
            shown: whether this process shows anything.
        """
        self.total, self.start, self.step = total, start, start
        self.bar = tqdm(
            total=total, initial=start, bar_format=BAR, dynamic_ncols=True, disable=not (shown and in_terminal())
        )
        self.in_lines = shown and not in_terminal()
        self.since = time.perf_counter()
        self.last = -SECONDS_BETWEEN_LINES

    def advance(self) -> None:
        """One more step is done."""
        self.step += 1
        self.bar.update(1)

    def go_back(self, step: int) -> None:
        """The steps after this one will be done again."""
        self.step = self.bar.n = step
        self.bar.refresh()

    def show(self, fields: Mapping[str, str]) -> None:
        """Shows what was logged: a few short fields, as "loss 0.97", or "120 images/s" of a name that is a unit."""
        text = ", ".join(f"{value} {name}" if "/" in name else f"{name} {value}" for name, value in fields.items())
        self.bar.set_postfix_str(text)
        now = time.perf_counter()
        done = self.step == self.total
        if self.in_lines and (done or now - self.last >= SECONDS_BETWEEN_LINES):
            self.last = now
            left = (now - self.since) / max(1, self.step - self.start) * (self.total - self.step)
            ending = f"took {clock(now - self.since)}" if done else f"{clock(left)} left"
            print(f"step {self.step}/{self.total}: {text}, {ending}", flush=True)

    def close(self) -> None:
        """Ends the progress bar."""
        self.bar.close()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03, or 02:03 below an hour."""
    return tqdm.format_interval(seconds)
