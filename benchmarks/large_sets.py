"""What a data set of many images costs before the first of them is read: listing, labels, and the order of an epoch.

Each is measured at a size that a laptop can bear; docs/scale.md says what follows for larger ones.

    python benchmarks/large_sets.py [--files 50000] [--images 10000000] > large_sets.md
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.numpy import load, save

from vco.api import Blocks
from vco.data.order import Order
from vco.storage.shards import COLUMNS
from vco_plugins.trees import open_tree

CLASSES: Final = 1000
PER_SHARD: Final = 1300
"""Images of a shard of 256 MB, decoded at 256 x 256."""
BATCH: Final = 1024


def seconds(work: Callable[[], Any]) -> float:
    """How long something takes: the best of three times."""
    times: list[float] = []
    for _ in range(3):
        since = time.perf_counter()
        work()
        times.append(time.perf_counter() - since)
    return min(times)


def listing(count: int) -> tuple[float, int]:
    """Seconds to list a folder of so many files, which the system has in its cache, and the bytes of their names."""
    with tempfile.TemporaryDirectory() as root:
        for number in range(count):
            folder = Path(root, "train", f"class{number % CLASSES:04d}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:08d}.jpg").touch()
        names: tuple[str, ...] = ()

        def listed() -> None:
            nonlocal names
            tree = open_tree(root)
            assert tree is not None, "it was made just now"
            names = tree.names

        return seconds(listed), sys.getsizeof(names) + sum(map(sys.getsizeof, names))


def index(count: int) -> tuple[float, int]:
    """Seconds to read the index of so many images in shards, and its bytes."""
    draws = np.random.default_rng(0)
    table = {name: draws.integers(0, 1000, count).astype(kind) for name, kind in COLUMNS.items()}
    content = save({f"train.{name}": values for name, values in table.items()})
    return seconds(lambda: load(content)["train.label"].astype(np.int64)), len(content)


def first_step(count: int, window: int) -> float:
    """Seconds until the images of the first step of an epoch are known."""
    labels = torch.zeros(count, dtype=torch.long)
    shards = -(-count // PER_SHARD)
    blocks = Blocks(sizes=[PER_SHARD] * (shards - 1) + [count - PER_SHARD * (shards - 1)], window=window)

    def first() -> None:
        Order(labels, seed=0, batch_size=BATCH, blocks=blocks if window else None).batch(0)

    return seconds(first)


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000, help="files that are listed")
    parser.add_argument("--images", type=int, default=10_000_000, help="images of an index and of an order")
    args = parser.parse_args()
    torch.set_num_threads(1)
    (listed, names), (read, size) = listing(args.files), index(args.images)
    rows = {
        "a folder is listed": (listed / args.files, f"{names / args.files:.0f} bytes"),
        "the index of shards is read": (read / args.images, f"{size / args.images:.0f} bytes"),
        "an epoch is shuffled at once": (first_step(args.images, 0) / args.images, "8 bytes"),
        "an epoch is shuffled by 8 shards at a time": (first_step(args.images, 8) / args.images, ""),
    }
    print("| | time for a million images | memory for an image |")
    print("|---|---|---|")
    for what, (each, memory) in rows.items():
        print(f"| {what} | {1e6 * each:.3g} s | {memory or 'little'} |")


if __name__ == "__main__":
    main()
