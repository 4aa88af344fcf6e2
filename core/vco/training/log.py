"""The log of a training: mean losses, speed, the progress bar, and metrics.jsonl."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from vco.storage.metrics_file import append_line


class Log:
    """Sums losses on the device, shows progress, and writes metrics.jsonl; closing it ends the progress bar."""

    def __init__(self, accelerator: Accelerator, path: Path, *, total: int, start: int, batch_size: int) -> None:
        self.accelerator = accelerator
        self.path = path
        self.batch_size = batch_size
        self.bar = tqdm(
            total=total, initial=start, desc="training", unit="step", disable=not accelerator.is_main_process
        )
        self.sums: dict[str, Tensor] = {}
        self.counts = Counter[str]()  # a loss with a schedule may have ended since
        self.count = 0
        self.since = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Notes the losses of one step, without waiting for them."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts.update(losses.keys())
        self.count += 1
        self.bar.update(1)

    def means(self) -> dict[str, float]:
        """Mean losses since the last call, over all processes; waits for the device."""
        if not self.count:
            return {}
        means = torch.stack([value / self.counts[name] for name, value in self.sums.items()])
        values: Any = self.accelerator.reduce(means, reduction="mean")
        return dict(zip(self.sums, values.tolist(), strict=True))

    def speed(self) -> dict[str, float]:
        """Images per second since the last call."""
        now = time.perf_counter()
        speed = self.count * self.batch_size / (now - self.since)
        self.sums, self.counts, self.count, self.since = {}, Counter(), 0, now
        return {"images_per_second": speed}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a line to the file, and puts the losses and the speed into the progress bar."""
        if not self.accelerator.is_main_process:
            return
        hidden = {"learning_rate", "images_per_second"}
        shown = {name: f"{value:.3g}" for name, value in values.items() if "." not in name and name not in hidden}
        self.bar.set_postfix({**shown, "img/s": f"{values['images_per_second']:.0f}"}, refresh=True)
        append_line(self.path, step, dict(values))

    def close(self) -> None:
        """Ends the progress bar."""
        self.bar.close()
