"""What a few steps of a training take: pace, memory, arithmetic against the machine's peak, and where the time goes."""

import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile

from vco import __version__
from vco.folder import RunFolder
from vco.randomness import generator
from vco.run import Run
from vco.training.log import Log
from vco.training.loop import Training
from vco.training.split import PARTS, Split, parts_marked

WARM: Final = 3
"""Steps before the first that is measured: kernels are chosen, memory is taken, blocks are compiled."""
WATCHED: Final = 2
"""Steps under PyTorch's profiler, which slows them; they come after those that are measured."""
FITTED: Final = 256
"""Images that an adapter is fitted to here, at most: how well is of no matter to a step's pace."""
MATRIX: Final = re.compile(r"mm\b|gemm|matmul|dot_product|attention|fmha|flash|conv(?!ert)|cutlass|xmma|nvjet", re.I)
"""Names of the operations and kernels whose arithmetic is counted: products of matrices, convolutions, attention."""
WAITING: Final = re.compile(r"^(cuda|hip)(Stream|Device|Event)Synchronize|^cudaMemcpy$|_local_scalar_dense")
"""Names of what makes the host wait for a GPU."""
SIDES: Final = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrices whose product shows the peak of a type of device."""


@attrs.frozen(kw_only=True)
class Kinds:
    """How a step's time splits over kinds of work, as shares of it that sum to 1."""

    matrices: float
    """Products of matrices, convolutions, attention."""
    others: float
    """All other operations."""
    between: float
    """Time in which no operation runs: on a GPU it is idle, elsewhere that is Python."""
    slowest: Sequence[tuple[str, float]]
    """The others that take longest, with their shares."""


@attrs.frozen(kw_only=True)
class Profile:
    """What was measured, per step where nothing else is said."""

    device: str
    precision: str
    processes: int
    images: int
    """Images of a step, over all processes."""
    steps: int
    """Steps that were measured."""
    seconds: float
    peak_memory: int
    """Bytes: on a GPU the most that PyTorch had given to tensors, elsewhere the most that the process had in memory."""
    flops_per_image: float | None
    """Operations of training with one image (as in cost.json); None if they cannot be counted."""
    peak_flops: float
    """Operations a second of a product of large matrices, on one device, in the run's arithmetic."""
    parts: Mapping[str, float]
    """Seconds of each part."""
    host_waits: float
    """Seconds in which the host waits: for a GPU, or on a CPU for readers, disk and other programs."""
    kinds: Kinds

    @property
    def images_per_second(self) -> float:
        """Images of all processes, trained with in a second."""
        return self.images / self.seconds

    @property
    def mfu(self) -> float | None:
        """Share of the peak that the counted arithmetic makes use of."""
        if self.flops_per_image is None:
            return None
        return self.flops_per_image * self.images_per_second / self.processes / self.peak_flops

    def plain(self) -> dict[str, Any]:
        """As plain data, for --json."""
        more = {
            "vco": __version__,
            "torch": str(torch.__version__),
            "images_per_second": self.images_per_second,
            "mfu": self.mfu,
        }
        return {**attrs.asdict(self), "parts": dict(self.parts), **more}


def measure(run: Run, accelerator: Accelerator, steps: int, trace: Path | None = None) -> Profile:
    """Does some steps of a run that is loaded, in a folder that is gone afterwards.

    Args:
        run: has to be a run of at least `steps_in_all(steps)` steps.
        accelerator: the processes.
        steps: steps to measure.
        trace: where this process writes its trace, which Perfetto and Chrome show; .gz packs it.
    """
    main, device = accelerator.is_main_process, accelerator.device
    precision = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    with tempfile.TemporaryDirectory(prefix="vco-profile-") as place:
        training = Training(run, accelerator, RunFolder(Path(place)))
        training.begin()
        training.note_cost()
        accelerator.wait_for_everyone()
        flops = json.loads(training.folder.cost.read_text())["training_flops_per_image"] if main else None
        peak = matrix_peak(device, precision)
        log = Log(
            accelerator,
            training.folder.metrics,
            total=steps_in_all(steps),
            start=0,
            batch_size=training.config.batch_size,
        )
        training.objective.beside["watch"] = log.watch
        split = Split(device)
        doing = training.only_steps(steps_in_all(steps), log)
        with closing(log):

            def some(count: int) -> tuple[float, float]:
                began, busy = _now(device), time.thread_time()
                for _ in range(count):
                    next(doing)
                return _now(device) - began, time.thread_time() - busy

            some(WARM)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with parts_marked(training, log, split):
                split.cut()
                seconds, busy = some(steps)
                split.cut()
                _now(device)
                parts = {name: value / steps for name, value in split.seconds().items()}
                memory = _peak_memory(device)
                activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
                with profile(activities=activities) as watched:
                    under, _ = some(WATCHED)
            doing.close()
    if trace:
        _write_trace(watched, trace)
    peak = max(peak, matrix_peak(device, precision))
    per_step = seconds / steps if device.type == "cuda" else under / WATCHED
    kinds, waits = _kinds(watched, device, per_step)
    return Profile(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        precision="bf16" if precision is torch.bfloat16 else "fp32",
        processes=accelerator.num_processes,
        images=training.config.batch_size,
        steps=steps,
        seconds=seconds / steps,
        peak_memory=memory,
        flops_per_image=flops,
        peak_flops=peak,
        parts=parts,
        host_waits=waits if device.type == "cuda" else max(0.0, seconds - busy) / steps,
        kinds=kinds,
    )


def steps_in_all(steps: int) -> int:
    """Steps that are done to measure some."""
    return WARM + steps + WATCHED


def matrix_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Operations a second of the product of two large square matrices: the fastest of those done in some time."""
    side = SIDES.get(device.type, SIDES["cpu"])
    source = generator("matrix peak", device=device)  # of constant matrices a GPU's product is faster
    a, b = (torch.randn(side, side, device=device, generator=source).to(dtype) for _ in range(2))
    torch.mm(a, b)
    began, best = _now(device), 0.0
    while (since := _now(device)) - began < seconds or not best:
        for _ in range(4):
            torch.mm(a, b)
        best = max(best, 4 * 2 * side**3 / (_now(device) - since))
    return best


def _now(device: torch.device) -> float:
    """The time, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _write_trace(watched: profile, path: Path) -> None:
    """Writes the trace aside and renames it into place."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as place:
        aside = Path(place) / path.name
        watched.export_chrome_trace(str(aside))
        aside.replace(path)


def _kinds(watched: profile, device: torch.device, step: float) -> tuple[Kinds, float]:
    """Kinds of work in a step that takes so many seconds, and the seconds in which the host waits for a GPU."""
    rows = [row for row in watched.key_averages() if row.key not in PARTS and not row.key.startswith("ProfilerStep")]
    waits = sum(row.self_cpu_time_total for row in rows if WAITING.search(row.key))
    if device.type == "cuda":
        rows = [row for row in rows if row.device_type.name == "CUDA"]
    each = {row.key: _own_time(row, device) / 1e6 / WATCHED / step for row in rows}
    matrices = sum(share for name, share in each.items() if MATRIX.search(name))
    others = {name: share for name, share in each.items() if not MATRIX.search(name)}
    slowest = sorted(others.items(), key=lambda item: -item[1])[:4]
    between = max(0.0, 1 - matrices - sum(others.values()))
    kinds = Kinds(matrices=matrices, others=sum(others.values()), between=between, slowest=slowest)
    return kinds, waits / 1e6 / WATCHED


def _own_time(row: Any, device: torch.device) -> float:
    """Microseconds of an operation without those that it calls."""
    return row.self_device_time_total if device.type == "cuda" else row.self_cpu_time_total
