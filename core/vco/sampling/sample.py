"""Images from noise: labels and noise are functions of (seed, image index), whatever the batch or process count."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from io import BytesIO

import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from vco.api import IMAGE, Streams
from vco.compiling import compiled, is_prepared
from vco.data.reader import to_uint8
from vco.objective import Objective
from vco.randomness import noise
from vco.run import Run
from vco.sampling.ahead import drawing_threads, one_ahead
from vco.sampling.velocity import GuidedVelocity

Watch = Callable[[Mapping[str, float], Streams, Streams], None]
"""(time of each stream, noisy streams, guided velocities): told of every evaluation on the way from noise to data."""


@torch.no_grad()
def integrate(
    run: Run,
    objective: Objective,
    labels: Int[Tensor, " b"],
    indices: Sequence[int],
    device: torch.device | str = "cpu",
    seed: int | None = None,
    watch: Watch | None = None,
) -> Streams:
    """All streams at the end of their way from noise to data, on the device; arguments as in `sample`.

    Args:
        run: settings and solver.
        objective: the model, on `device`.
        labels: class of each image.
        indices: number of each image.
        device: where the network is.
        seed: seed of the noise; by default the run's.
        watch: is told of every evaluation.
    """
    objective.eval()
    specs = objective.specs
    shapes = {stream: spec.shape for stream, spec in specs.items()}
    seed = run.config.seed if seed is None else seed
    on_cuda = torch.device(device).type == "cuda"

    def drawn(*key: int | str) -> Streams:
        on_host = noise(shapes, indices, seed, *key, threads=drawing_threads(device))
        scaled = {stream: eps * specs[stream].noise_scale for stream, eps in on_host.items()}
        return {stream: eps.pin_memory() for stream, eps in scaled.items()} if on_cuda else scaled

    def sent(noises: Streams) -> Streams:
        return {stream: eps.to(device, non_blocking=True) for stream, eps in noises.items()}

    solver = run.solver
    guided = GuidedVelocity(objective, labels.to(device), until=solver.needs_until, by_step=solver.guides_by_step)

    def watched(state: Streams, times: Mapping[str, float], until: Mapping[str, float]) -> Streams:
        velocities = guided(state, times, until)
        if watch is not None:
            watch(times, state, velocities)
        return velocities

    path = objective.process.path(run.config.sample.steps)
    start = sent(drawn("sampling"))
    if not on_cuda:  # elsewhere the cores that would draw are those that compute
        return solver.integrate(watched, start, path, lambda k: sent(drawn("solver", k)))
    with one_ahead(lambda k: drawn("solver", k), run.config.sample.steps) as noise_of:
        return solver.integrate(watched, start, path, lambda k: sent(noise_of(k)))


@torch.no_grad()
def sample(
    run: Run,
    objective: Objective,
    labels: Int[Tensor, " b"],
    indices: Sequence[int],
    device: torch.device | str = "cpu",
    seed: int | None = None,
    watch: Watch | None = None,
    rows: int = 0,
) -> UInt8[Tensor, "b c h w"]:
    """Images for the given labels, uint8 on the CPU.

    Image i depends only on (seed, indices[i], label i), whatever the batch or the number of processes. The noise is
    drawn on the CPU, so that it is the same on every device.

    Args:
        run: settings and solver.
        objective: the model, on `device`.
        labels: class of each image.
        indices: number of each image.
        device: where the network is.
        seed: seed of the noise; by default the run's.
        watch: is told of every evaluation of the network, as a progress bar wants to be.
        rows: images of a batch that is one of several; where blocks are compiled, this one is filled up to it with
            repetitions of its last image, so that all have one shape. 0: nothing is compiled for it.
    """
    wanted, fast = len(labels), bool(rows) and is_prepared(objective)
    if fast:
        more = rows - wanted
        labels, indices = torch.cat([labels, labels[-1:].expand(more)]), [*indices, *[indices[-1]] * more]
    with compiled() if fast else nullcontext():
        state = integrate(run, objective, labels, indices, device, seed, watch)
        return to_uint8(objective.codec.decode(state[IMAGE]))[:wanted].cpu()


def sample_many(
    run: Run,
    objective: Objective,
    labels: Int[Tensor, " n"],
    indices: Sequence[int],
    device: torch.device | str = "cpu",
    seed: int | None = None,
    at_least: int = 0,
) -> Iterator[UInt8[Tensor, "b c h w"]]:
    """Images as `sample` makes them, in batches of the run's size for sampling.

    Args:
        run: settings and solver.
        objective: the model, on `device`.
        labels: class of each image.
        indices: number of each image.
        device: where the network is.
        seed: seed of the noise; by default the run's.
        at_least: batches that are made at least; those beyond the images are of one that nobody gets. Processes that
            share the weights out have to make equally many.
    """
    size = run.config.sample.batch_size
    starts = range(0, len(indices), size)
    filled = whole_batch(run, len(indices))
    for start in starts:
        rows = slice(start, start + size)
        yield sample(run, objective, labels[rows], indices[rows], device, seed, rows=filled)
    for _ in range(len(starts), at_least):
        sample(run, objective, torch.zeros(1, dtype=torch.long), [0], device, seed, rows=filled)


def whole_batch(run: Run, images: int) -> int:
    """Images of every batch, the last one filled up, where so many are made; 0 where they are not even one batch."""
    size = run.config.sample.batch_size
    return size if images >= size else 0


def sample_grid(run: Run, objective: Objective, device: torch.device | str = "cpu") -> bytes:
    """A PNG of samples, the same noise and labels at every call: columns are classes, rows are noises."""
    columns = grid_classes(run.facts.num_classes)
    labels = columns.repeat(run.config.sample.grid_rows)
    return encode_png(sample(run, objective, labels, range(len(labels)), device), len(columns))


def grid_classes(num_classes: int) -> Int[Tensor, " columns"]:
    """The class of each column of a sample grid: all of them, or ten that are spread evenly."""
    columns = min(num_classes, 10)
    return torch.arange(columns) * num_classes // columns


def encode_png(images: UInt8[Tensor, "n c h w"], columns: int) -> bytes:
    """A PNG with the images row by row; small ones are enlarged by a whole factor so that they can be seen."""
    from torchvision.utils import make_grid  # takes a second, which whoever makes no grid need not wait for

    zoom = max(1, 48 // images.shape[-1])
    large = images.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    grid = make_grid(large, nrow=columns, padding=2, pad_value=127)
    buffer = BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
