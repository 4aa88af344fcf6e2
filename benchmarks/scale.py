"""V-Co on ImageNet-256 with 8 to 1,024 GPUs, on paper: what bounds the speed, and what does not fit.

Nothing here was run on a GPU. The first table is counted from the presets (see memory.py); the second one follows from
it by the formulas of docs/scale.md, published figures of the hardware, and the reading rates of docs/data.md.

    python benchmarks/scale.py > tables.md
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

PRESETS: Final = {"B": "imagenet256-b16", "L": "imagenet256-l16", "H": "imagenet256-h16"}
PEAK: Final = 989e12
"""Operations per second of an H100 SXM, bf16, dense (NVIDIA's data sheet)."""
SHARE: Final = 0.3
"""Assumed share of the peak that a step reaches; public training code of this field reaches 13 to 37 %."""
NVLINK: Final = 450e9
"""Bytes per second that a GPU sends to others of its node: half of 900 GB/s (NVIDIA's data sheet)."""
NETWORK: Final = 50e9
"""Bytes per second that a GPU sends to other nodes, through 400 Gbit/s of its own (DGX H100's data sheet)."""
NODE: Final = 8
"""GPUs of a node."""
CORES: Final = 12
"""Processor cores for each GPU, as in docs/tutorials/cluster.md."""
JPEG: Final = 247
"""JPEG files that a core decodes in a second, measured (docs/data.md)."""
JPEG_BYTES: Final = 115e3
"""Bytes of such a file."""
IMAGES: Final = 600 * 1_281_167
"""600 epochs of ImageNet."""
LAYOUTS: Final = ((8, 1024), (64, 1024), (256, 4096), (1024, 16_384))
"""GPUs and global batch: the published one as long as a process has a class group of 16, and then 16 images each."""
STATE: Final = 24
"""Bytes of a parameter with its gradient, two moments and two averages, float32."""
MEMORY: Final = 80e9


class Network(NamedTuple):
    """What is counted of a preset."""

    size: str
    parameters: float
    """Millions."""
    operations: float
    """Billions for an image."""
    kept: float
    """Megabytes for an image, for the backward pass."""
    recomputed: float
    """Likewise with --train.checkpoint-blocks."""

    @property
    def row(self) -> str:
        """A line of the first table."""
        least = " / ".join(map(str, balanced(self)))
        return (
            f"| {self.size} | {self.parameters:,.0f} M | {self.operations:,.0f} GFLOP | {self.kept:,.0f} MB "
            f"| {self.recomputed:,.0f} MB | {least} |"
        )


class Step(NamedTuple):
    """A step of so many GPUs, in seconds and bytes."""

    computing: float
    copied: float
    """Exchange of gradients between copies of the weights (DDP)."""
    shared: float
    """Exchange of weights and gradients that are shared out (FSDP)."""
    decoding: float
    """Of JPEG files."""
    memory: tuple[float, float]
    """Bytes of a GPU with DDP and with FSDP."""
    recomputed: tuple[bool, bool]
    """Whether blocks have to be recomputed for that, likewise."""

    @property
    def time(self) -> float:
        """With DDP; exchange and decoding happen while it computes."""
        return max(self.computing, self.copied, self.decoding)

    @property
    def bound(self) -> str:
        """What it waits for."""
        times = {"computing": self.computing, "network": self.copied, "decoding": self.decoding}
        return max(times, key=lambda name: times[name])


def step(network: Network, gpus: int, batch: int) -> Step:
    """A step of so many GPUs and images."""
    weights, images = 4e6 * network.parameters, batch / gpus
    sent = weights * (gpus - 1) / gpus / (NVLINK if gpus <= NODE else NETWORK)
    states = (STATE / 4 * weights, STATE / 4 * weights / gpus)
    recomputed = [state + 1e6 * images * network.kept > MEMORY for state in states]
    kept = [1e6 * images * (network.recomputed if again else network.kept) for again in recomputed]
    return Step(
        computing=images * 1e9 * network.operations / (SHARE * PEAK),
        copied=2 * sent,
        shared=3 * sent,
        decoding=images / (CORES * JPEG),
        memory=(states[0] + kept[0], states[1] + kept[1]),
        recomputed=(recomputed[0], recomputed[1]),
    )


def balanced(network: Network) -> tuple[int, int]:
    """Images per GPU from which the network between nodes is no slower than computing, with DDP and with FSDP."""
    sent = 4e6 * network.parameters / NETWORK
    image = 1e9 * network.operations / (SHARE * PEAK)
    return math.ceil(2 * sent / image), math.ceil(3 * sent / image)


def tables(networks: Sequence[Network]) -> tuple[list[str], list[str]]:
    """The lines of the tables of times, and of memory and storage."""
    times, places = list[str](), list[str]()
    for network in networks:
        for gpus, batch in LAYOUTS:
            found = step(network, gpus, batch)
            seconds = (found.computing, found.copied, found.shared, found.decoding)
            cells = [f"{1000 * value:,.1f} ms" for value in seconds]
            rate = batch / found.time
            begin = f"| {network.size} | {gpus:,} | {batch:,} |"
            times.append(f"{begin} {' | '.join(cells)} | {found.bound} | {IMAGES / rate / 3600:,.0f} h |")
            memory = [
                f"{m / 1e9:,.0f} GB{' (recomputed)' * r}" for m, r in zip(found.memory, found.recomputed, strict=True)
            ]
            places.append(f"{begin} {' | '.join(memory)} | {rate:,.0f} | {rate * JPEG_BYTES / 1e9:,.1f} GB/s |")
    return times, places


def main() -> None:
    """Counts the presets, and prints all tables."""
    from memory import counted
    from tqdm import tqdm

    networks: list[Network] = []
    for size, preset in tqdm(PRESETS.items()):
        found = counted(preset)
        counts = (found.parameters / 1e6, found.operations / 1e9, found.image[0] / 1e6, found.image[1] / 1e6)
        networks.append(Network(size, *map(round, counts)))
    for lines in ([network.row for network in networks], *tables(networks)):
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
