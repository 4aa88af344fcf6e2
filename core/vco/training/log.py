"""The log of a training: mean losses, pace and measures, on the screen, in metrics.jsonl and with trackers."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from vco.compiling import tally
from vco.storage.metrics_file import append_line
from vco.training.clock import Clock
from vco.training.progress import Progress
from vco.training.trackers import log_values
from vco.training.watch import Watch, read


class Log:
    """Sums on the device, and waits for it only where a line is written; closing it ends the progress bar."""

    def __init__(self, accelerator: Accelerator, path: Path, *, total: int, start: int, batch_size: int) -> None:
        self.accelerator = accelerator
        self.path = path
        self.batch_size = batch_size
        self.progress = Progress(total=total, start=start, shown=accelerator.is_main_process)
        self.watch = Watch()
        self.clock = Clock(accelerator.device)
        self.gradient_norm: Tensor | None = None
        """Norm of the gradient of all parameters in the last step, before it was clipped; None if nobody asked."""
        self.score: dict[str, str] = {}
        """The last score, as it is shown."""
        self.sums: dict[str, Tensor] = {}
        self.counts = Counter[str]()  # a loss with a schedule may have ended since
        self.count = 0

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Notes the losses of one step, without waiting for them."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts.update(losses.keys())
        self.count += 1
        self.progress.advance()

    def means(self) -> dict[str, float]:
        """Mean losses since the last line, over all processes; waits for the device."""
        if not self.sums:  # no step since then, or none whose gradient was finite
            return {}
        means = torch.stack([value / self.counts[name] for name, value in self.sums.items()])
        return dict(zip(self.sums, self._over_processes(means).tolist(), strict=True))

    def measures(self) -> dict[str, float]:
        """What else is known since the last line, and the pace; begins a new stretch."""
        packed = self.watch.packed()
        flat = torch.cat([value.flatten() for value in packed.values()]) if packed else torch.empty(0)
        parts = self._over_processes(flat).split([value.numel() for value in packed.values()]) if packed else ()
        shapes = [value.shape for value in packed.values()]
        values = read({name: part.view(s) for name, part, s in zip(packed, parts, shapes, strict=True)})
        values |= {} if self.gradient_norm is None else {"gradient_norm": float(self.gradient_norm)}
        self.clock.leave_out(tally.seconds)
        seconds = self.clock.split(self.count)
        busy = seconds["seconds.data"] + seconds["seconds.step"]
        values |= {**seconds, "images_per_second": self.batch_size / busy}
        if self.clock.on_cuda:
            values["memory_gib"] = torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30
        self.watch.clear()
        self.gradient_norm = None
        self.sums, self.counts, self.count = {}, Counter(), 0
        return values

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line, and shows the loss, the last score and the speed."""
        if not self.accelerator.is_main_process:
            return
        speed = {"images/s": f"{values['images_per_second']:.0f}"}
        loss = {"loss": f"{values['loss']:.3g}"} if "loss" in values else {}  # all steps may have been left out
        self.progress.show({**loss, **self.score, **speed})
        tally.tell(tqdm.write)
        append_line(self.path, step, dict(values))
        log_values(self.accelerator, step, values)

    def forget_step(self) -> None:
        """Forgets what was looked at in a step that is left out."""
        self.watch.clear()
        self.gradient_norm = None

    def go_back(self, step: int) -> None:
        """Forgets what was summed since the last line, and shows an earlier step."""
        self.watch.clear()
        self.sums, self.counts, self.count = {}, Counter(), 0
        self.progress.go_back(step)

    def scored(self, name: str, value: float) -> None:
        """Notes a score, to be shown from now on: "FD (digits-cnn)" as "FD"."""
        self.score = {name.partition(" (")[0]: f"{value:.3g}"}

    def close(self) -> None:
        """Ends the progress bar."""
        self.progress.close()

    def _over_processes(self, values: Tensor) -> Tensor:
        reduced: Any = self.accelerator.reduce(values, reduction="mean")
        return reduced
