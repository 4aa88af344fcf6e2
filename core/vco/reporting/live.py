"""The report of a run that is still going on: written again and again, for at most a hundredth of the run's time."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from tqdm import tqdm

from vco.errors import one_line
from vco.folder import RunFolder
from vco.reporting.report import FAILED, write_report

SHARE: Final = 0.01
"""Share of a run's time that its report may take."""


class LiveReport:
    """Writes report.html at the first call, and then as often as its share of the time allows."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.next = 0.0

    def update(self, state: str) -> None:
        """Writes the page, unless it was written only just now.

        Args:
            state: how far the run is, as in "training, after step 20 of 1000".
        """
        if time.monotonic() >= self.next:
            self.write(state)

    def write(self, state: str) -> None:
        """Writes the page; whatever stands in its way is said, and ends no training."""
        since = time.monotonic()
        try:
            write_report(self.folder, state)
        except Exception as error:
            tqdm.write(f"{self.folder.report} could not be written: {one_line(error)}")
        now = time.monotonic()
        self.next = now + (now - since) / SHARE


@contextmanager
def ended(report: LiveReport | None) -> Generator[None]:
    """Inside it a run goes on; where an error ends it, the page says so."""
    try:
        yield
    except Exception as error:
        if report:
            report.write(f"{FAILED}: {one_line(error)}")
        raise
