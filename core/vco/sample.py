"""Images from noise: the guided velocity, a solver, and labels and noise that are functions of (seed, image index)."""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from vco import flow
from vco.api import PIXELS, Backbone, Condition, Guidance, Streams, Velocity
from vco.data import to_uint8
from vco.files import write_atomic
from vco.objective import Objective, show
from vco.randomness import noise
from vco.run import Run


def guided_velocity(
    backbone: Backbone, guidance: Guidance, labels: Int[Tensor, " b"], weak: Objective | None = None
) -> Velocity:
    """The velocity of all streams under guidance.

    All branches are evaluated in one batched forward pass, but for the branch "weak", which the weak model evaluates.
    """

    def velocity(state: Streams, times: Mapping[str, float]) -> Streams:
        branches = dict(guidance.branches(labels, times))
        weaker = {name: branches.pop(name) for name in ("weak",) if weak and name in branches}
        each = _velocities(backbone, guidance, state, times, branches)
        if weak and weaker:
            each |= _velocities(weak.backbone, weak.guidance, {s: state[s] for s in weak.specs}, times, weaker)
        return guidance.combine(each, times)

    return velocity


def _velocities(
    backbone: Backbone, guidance: Guidance, state: Streams, times: Mapping[str, float], branches: dict[str, Condition]
) -> dict[str, Streams]:
    """Each branch's velocity of each stream, (clean - noisy) / max(1 - t, 0.05) [JiT, V-Co]."""
    count = len(branches)
    condition = Condition.concatenate(branches.values())
    noisy = {stream: x_t.repeat(count, *[1] * (x_t.ndim - 1)) for stream, x_t in state.items()}
    t = {stream: torch.full((len(x_t),), times[stream], device=x_t.device) for stream, x_t in noisy.items()}
    clean = backbone(show(guidance, noisy, condition), t, condition).clean
    parts = {stream: flow.velocity(clean[stream], noisy[stream], t[stream]).chunk(count) for stream in state}
    return {branch: {stream: part[i] for stream, part in parts.items()} for i, branch in enumerate(branches)}


@torch.no_grad()
def sample(
    run: Run,
    objective: Objective,
    labels: Int[Tensor, " b"],
    indices: Sequence[int],
    device: torch.device | str = "cpu",
) -> UInt8[Tensor, "b c h w"]:
    """Images for the given labels, uint8 on the CPU.

    Image i depends only on (seed, indices[i], label i), whatever the batch or the number of processes. The noise is
    drawn on the CPU, so that it is the same on every device.
    """
    objective.eval()
    specs = objective.specs

    def fresh(*key: int | str) -> Streams:
        drawn = noise(specs, indices, run.config.seed, *key)
        return {stream: (eps * specs[stream].noise_scale).to(device) for stream, eps in drawn.items()}

    velocity = guided_velocity(objective.backbone, objective.guidance, labels.to(device), objective.weak)
    path = objective.process.path(run.config.sample.steps)
    state = run.solver.integrate(velocity, fresh("sampling"), path, lambda k: fresh("solver", k))
    return to_uint8(state[PIXELS]).cpu()


def sample_many(
    run: Run, objective: Objective, indices: Sequence[int], device: torch.device | str = "cpu"
) -> Iterator[UInt8[Tensor, "b c h w"]]:
    """Class-balanced images in batches: image i has label i modulo the number of classes."""
    size = run.config.sample.batch_size
    for start in range(0, len(indices), size):
        batch = indices[start : start + size]
        yield sample(run, objective, torch.tensor(batch) % run.data.num_classes, batch, device)


def sample_grid(run: Run, objective: Objective, path: Path, device: torch.device | str = "cpu") -> None:
    """Writes a PNG of samples, the same noise and labels at every call: columns are classes, rows are noises."""
    classes = run.data.num_classes
    columns = min(classes, 10)
    labels = (torch.arange(columns) * classes // columns).repeat(run.config.sample.grid_rows)
    images = sample(run, objective, labels, range(len(labels)), device)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, encode_png(images, columns))


def encode_png(images: UInt8[Tensor, "n c h w"], columns: int) -> bytes:
    """A PNG with the images row by row; small ones are enlarged by a whole factor so that they can be seen."""
    zoom = max(1, 48 // images.shape[-1])
    large = images.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    grid = make_grid(large, nrow=columns, padding=2, pad_value=127)
    buffer = BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
