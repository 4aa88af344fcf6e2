"""How long a checkpoint of about a gigabyte blocks training: written at once, and written while training goes on.

A network with two averages and Adam's two moments is saved in turn by both ways, so that a busy machine or disk slows
both alike. What is timed is how long the call keeps whoever trains: all of copying, writing, syncing, hashing and
renaming, or the copy alone; the last save of the second way, which is waited for, is timed too.

    python benchmarks/saving.py [--megabytes 1000] [--rounds 5] [--folder FOLDER] [--json FILE]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from accelerate import Accelerator
from tqdm import tqdm

from vco.storage import checkpoint
from vco.storage.checkpoint import Checkpoint
from vco.training.saving import Saver

SETS: Final = ("model", "ema-0", "ema-1", "exp_avg", "exp_avg_sq")
WIDTH: Final = 1024
"""Rows and columns of a weight."""


def made(megabytes: int) -> Checkpoint:
    """A checkpoint of this size."""
    count = max(1, round(megabytes * 1e6 / (4 * WIDTH**2 * len(SETS))))
    tensors = {name: {f"block.{n}.weight": torch.randn(WIDTH, WIDTH) for n in range(count)} for name in SETS}
    return Checkpoint(step=0, tensors=tensors, state={})


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def measure(folder: Path, megabytes: int, rounds: int) -> dict[str, Any]:
    """Seconds of each way, round by round."""
    saved = made(megabytes)
    size = sum(value.nbytes for part in saved.tensors.values() for value in part.values())
    saver = Saver(folder / "aside", 1, Accelerator(cpu=True), print)
    seconds: dict[str, list[float]] = {"at once": [], "aside": [], "aside, with the wait": []}
    first = 0.0
    for step in tqdm(range(rounds + 1), "saving", leave=False):
        now = Checkpoint(step=step, tensors=saved.tensors, state={})
        since = time.perf_counter()
        blocked = timed(lambda now=now: saver.save(now))
        saver.wait()
        whole = time.perf_counter() - since
        at_once = timed(lambda now=now: checkpoint.save(folder / "at-once", now, 1))
        if step == 0:  # the host's memory is taken once
            first = blocked
            continue
        for name, value in zip(seconds, (at_once, blocked, whole), strict=True):
            seconds[name].append(value)
    medians = {name: median(values) for name, values in seconds.items()}
    return {
        "megabytes": round(size / 1e6),
        "seconds": seconds,
        "median": medians,
        "first copy": first,
        "ratio": medians["at once"] / medians["aside"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk that is of interest; by default a temporary one")
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name in ("aside", "at-once"):
            (Path(folder) / name).mkdir()
        found = measure(Path(folder), args.megabytes, args.rounds)
    print(f"a checkpoint of {found['megabytes']} MB keeps training from going on (median of {args.rounds}):")
    for name, seconds in found["median"].items():
        print(f"  {name:<22} {seconds:6.2f} s")
    print(f"  the first copy         {found['first copy']:6.2f} s (takes its memory)")
    print(f"saving aside blocks {found['ratio']:.1f} times less")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
