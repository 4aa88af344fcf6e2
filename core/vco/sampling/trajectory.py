"""How images come out of noise: all streams of a few samples at some moments on the way, and pictures of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from vco import flow
from vco.api import IMAGE, Streams
from vco.data.reader import to_uint8
from vco.errors import UserError
from vco.objective import Objective
from vco.run import Run
from vco.sampling import pictures
from vco.sampling.sample import integrate
from vco.storage.files import write_atomic

MOMENTS: Final = 10
"""Columns of a contact sheet."""
FRAMES: Final = 32
"""Moments of an animation."""
SUFFIXES: Final = {".png": MOMENTS, ".gif": FRAMES, ".webp": FRAMES}
"""Kind of picture -> how many moments it shows."""


@attrs.frozen(kw_only=True, repr=False)
class Trajectory:
    """Some samples on their way from noise to data. The last moment is the end, where all times are 1."""

    labels: Int[Tensor, " n"]
    """Class of each sample."""
    class_names: Sequence[str]
    """Name of each class; may be empty."""
    times: Mapping[str, Sequence[float]]
    """Stream -> its time at each moment."""
    images: UInt8[Tensor, "moments n c h w"]
    """The image stream, decoded."""
    predicted: UInt8[Tensor, "moments n c h w"]
    """The clean image that the guided network sees in it: where the velocity would lead if it stayed."""
    features: Mapping[str, Float[Tensor, "moments n tokens width"]]
    """Every other stream whose tokens lie on a grid; none in a run that denoises the image alone."""
    predicted_features: Mapping[str, Float[Tensor, "moments n tokens width"]]
    """What the guided network sees in them."""
    grids: Mapping[str, tuple[int, int]]
    """Stream -> rows and columns of its tokens."""

    def __repr__(self) -> str:
        return f"<Trajectory of {len(self.labels)} samples at {len(self.images)} moments; .picture() shows it>"

    def picture(self) -> Image.Image:
        """A contact sheet: a column for each moment; for each sample, rows for the image and for the features below.

        The three colours of a token are its leading principal components, those of all tokens of the last moment, so
        that a colour means the same in every cell.
        """
        titles = [self._title(moment) for moment in range(len(self.images))]
        rows: list[tuple[str, Sequence[Tensor]]] = []
        cells = self._cells()
        for sample in range(len(self.labels)):
            for number, (name, of_moments) in enumerate(cells.items()):
                head = f"{self._name(sample)}\n" if number == 0 else ""
                rows.append((head + name, list(of_moments[:, sample])))
        return pictures.sheet(titles, rows, rows_per_block=len(cells))

    def frames(self) -> list[Image.Image]:
        """The same as one picture a moment, with a column for each sample."""
        names = [self._name(sample) for sample in range(len(self.labels))]
        cells = self._cells()
        return [
            pictures.sheet(
                names,
                [(name, list(of_moments[moment])) for name, of_moments in cells.items()],
                corner=self._title(moment),
                rows_per_block=len(cells),
            )
            for moment in range(len(self.images))
        ]

    def save(self, path: str | Path) -> None:
        """Writes a contact sheet (.png) or an animation (.gif, .webp).

        Raises:
            UserError: if the file has another suffix.
            OSError: if it cannot be written.
        """
        path = Path(path)
        check_suffix(path)
        animated = path.suffix != ".png"
        write_atomic(path, pictures.animation(self.frames(), path.suffix) if animated else pictures.png(self.picture()))

    def png(self) -> bytes:
        """The contact sheet as a PNG file."""
        return pictures.png(self.picture())

    def _cells(self) -> dict[str, Tensor]:
        """Title of a row -> its pictures, uint8 [moments, n, c, h, w]."""
        cells = {"image": self.images, "predicted image": self.predicted}
        for stream, values in self.features.items():
            basis = pictures.Basis.of(values[-1].flatten(0, 1))
            for title, shown in ((stream, values), (f"predicted {stream}", self.predicted_features[stream])):
                rows, columns = self.grids[stream]
                colours = basis.colours(shown).unflatten(2, (rows, columns))
                cells[title] = colours.movedim(-1, 2)
        return cells

    def _title(self, moment: int) -> str:
        """The times of a moment; one number where all streams have the same."""
        times = {stream: values[moment] for stream, values in self.times.items()}
        if len({f"{t:.2f}" for t in times.values()}) == 1:
            return f"t = {times[IMAGE]:.2f}"
        return "\n".join(f"{stream} {t:.2f}" for stream, t in times.items())

    def _name(self, sample: int) -> str:
        label = int(self.labels[sample])
        name = self.class_names[label] if self.class_names else str(label)
        return f"class {label}" if name == str(label) else name


@attrs.frozen
class _Moment:
    """What is noted of one evaluation."""

    times: Mapping[str, float]
    noisy: Streams
    clean: Streams


@attrs.define
class _Notes:
    """Keeps one evaluation out of each stretch of the way, so that memory does not grow with the solver's steps."""

    stretches: int
    kept: dict[int, _Moment] = attrs.field(factory=dict[int, _Moment])

    def take(self, times: Mapping[str, float], noisy: Streams, velocities: Streams) -> None:
        """Notes an evaluation if it is the first of its stretch, or another one at the same times.

        Solvers of higher order ask about a time first for a trial step, and again when they have got there: the last
        answer is that of the true state.
        """
        progress = sum(times.values()) / len(times)
        stretch = min(math.floor(progress * self.stretches + 1e-6), self.stretches - 1)
        if stretch in self.kept and self.kept[stretch].times != times:
            return
        at = {stream: torch.full((len(x),), times[stream], device=x.device) for stream, x in noisy.items()}
        clean = {stream: flow.clean(velocities[stream], x, at[stream]).cpu() for stream, x in noisy.items()}
        here = {stream: x.float().cpu() for stream, x in noisy.items()}
        self.kept[stretch] = _Moment(dict(times), here, clean)


@torch.no_grad()
def trajectory(
    run: Run,
    objective: Objective,
    labels: Int[Tensor, " n"],
    indices: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    moments: int = MOMENTS,
) -> Trajectory:
    """Samples a few images and notes how they come out of noise; the last moment is what `sample` would give.

    Args:
        run: settings and solver.
        objective: the model, on `device`.
        labels: class of each sample.
        indices: number of each sample; by default they are counted from 0.
        device: where the network is.
        seed: seed of the noise; by default the run's.
        moments: how many moments to note, spread evenly over the way and with both ends, at least 2; fewer where the
            solver makes fewer steps.
    """
    if moments < 2:
        raise UserError(f"a trajectory has at least 2 moments, its beginning and its end, and {moments} are asked for")
    notes = _Notes(moments - 1)
    state = integrate(run, objective, labels, indices or range(len(labels)), device, seed, notes.take)
    end = {stream: x.float().cpu() for stream, x in state.items()}
    noted = [*notes.kept.values(), _Moment(dict.fromkeys(end, 1.0), end, end)]
    specs = objective.specs
    grids = {name: spec.grid for name, spec in specs.items() if name != IMAGE and spec.grid is not None}

    def decoded(stream: Tensor) -> Tensor:
        return to_uint8(objective.codec.decode(stream.to(device))).cpu()

    return Trajectory(
        labels=labels.cpu(),
        class_names=run.facts.class_names,
        times={stream: [moment.times[stream] for moment in noted] for stream in specs},
        images=torch.stack([decoded(moment.noisy[IMAGE]) for moment in noted]),
        predicted=torch.stack([decoded(moment.clean[IMAGE]) for moment in noted]),
        features={name: torch.stack([moment.noisy[name] for moment in noted]) for name in grids},
        predicted_features={name: torch.stack([moment.clean[name] for moment in noted]) for name in grids},
        grids=grids,
    )


def check_suffix(path: Path) -> None:
    """Raises `UserError` unless a picture of a trajectory can be written under this name."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"a trajectory is drawn as {', '.join(SUFFIXES)}, and {path} ends with none of these")
