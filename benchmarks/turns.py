"""Two ways to do the same work, timed in turns, so that a busy machine slows both alike."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import attrs
import torch
from tqdm import tqdm

from vco.storage.files import write_atomic

Work = Callable[[], Any]


@attrs.frozen(kw_only=True)
class Row:
    """Two ways and their times."""

    title: str
    ours: Sequence[float]
    """Seconds of each turn of ours, ..."""
    theirs: Sequence[float]
    """... and of the other way."""

    @property
    def ratios(self) -> list[float]:
        """How many times faster ours was, turn by turn."""
        return [other / mine for mine, other in zip(self.ours, self.theirs, strict=True)]

    @property
    def spread(self) -> tuple[float, float]:
        """The quarter and three quarters of the ratios."""
        low, _, high = quantiles(self.ratios, n=4)
        return low, high

    def plain(self) -> dict[str, Any]:
        """As plain data, for --json."""
        return {
            "what": self.title,
            "ours_seconds": median(self.ours),
            "other_seconds": median(self.theirs),
            "ratio": median(self.ratios),
            "ratio_quartiles": list(self.spread),
            "turns": len(self.ours),
        }


def in_turns(title: str, ours: Work, theirs: Work, turns: int = 15, repeat: int = 1) -> Row:
    """Times two ways A B A B; each is done once before.

    Args:
        title: what is done.
        ours: one way.
        theirs: the other one.
        turns: how often each is timed, at least 2.
        repeat: how often each is done in a turn.
    """
    times: Mapping[str, list[float]] = {"ours": [], "theirs": []}
    ways = {"ours": ours, "theirs": theirs}
    for work in ways.values():
        seconds(work, 1)
    for _ in tqdm(range(turns), desc=title, unit="turn", leave=False):
        for name, work in ways.items():
            times[name].append(seconds(work, repeat))
    return Row(title=title, **times)


def seconds(work: Work, repeat: int) -> float:
    """Time of doing something once, on whatever device; the device has finished before and after."""
    _wait()
    began = time.perf_counter()
    for _ in range(repeat):
        work()
    _wait()
    return (time.perf_counter() - began) / repeat


def table(rows: Sequence[Row], other: str = "reference-style") -> str:
    """The rows as Markdown."""
    lines = [f"| what | ours | {other} | times faster | quartiles |", "|---|---|---|---|---|"]
    for row in rows:
        low, high = row.spread
        mine, theirs = (f"{1e3 * median(times):,.4g} ms" for times in (row.ours, row.theirs))
        lines.append(f"| {row.title} | {mine} | {theirs} | {median(row.ratios):.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def write_json(path: Path | None, rows: Sequence[Row], **more: Any) -> None:
    """Writes the rows, and what else was measured, with the commit and the hardware; does nothing without a path."""
    if path is not None:
        content = {**surroundings(), **more, "rows": [row.plain() for row in rows]}
        write_atomic(path, json.dumps(content, indent=1) + "\n")


def surroundings() -> dict[str, Any]:
    """Commit and hardware."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "commit": commit.stdout.strip(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
