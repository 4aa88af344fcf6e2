"""The pictures of a run: sample grids as it trains, training images beside them, and how samples come out of noise."""

from pathlib import Path
from typing import Final

import torch
from accelerate import Accelerator

from vco.api import ImageSet
from vco.folder import RunFolder
from vco.objective import Objective
from vco.run import Run
from vco.sampling.sample import encode_png, grid_classes, sample_grid
from vco.sampling.trajectory import trajectory
from vco.storage.files import write_atomic
from vco.training.trackers import log_picture

FOLLOWED: Final = 3
"""Samples that are followed from noise to data."""


def write_grid(run: Run, model: Objective, folder: RunFolder, step: int, accelerator: Accelerator) -> None:
    """Writes the sample grid of a step, and sends it to the trackers.

    Every process draws it, as all have to where they share the weights out, and the first one writes.
    """
    with accelerator.autocast():
        grid = sample_grid(run, model, accelerator.device)
    if accelerator.is_main_process:
        folder.samples.mkdir(exist_ok=True)
        write_atomic(folder.grid(step), grid)
        log_picture(accelerator, step, "samples", folder.grid(step))


def write_trajectory(run: Run, model: Objective, folder: RunFolder, accelerator: Accelerator) -> None:
    """Draws how some samples come out of noise; every process calls this, as for `write_grid`."""
    labels = grid_classes(run.facts.num_classes)[:FOLLOWED]
    with accelerator.autocast():
        way = trajectory(run, model, labels, device=accelerator.device)
    if accelerator.is_main_process:
        way.save(folder.trajectory)


def write_real_grid(run: Run, images: ImageSet, path: Path) -> None:
    """Writes a PNG of the first training images of each class, if it is not there; a class of none stays grey.

    Args:
        run: says how many rows and which classes a sample grid has.
        images: the training set.
        path: the PNG.
    """
    if path.exists():
        return
    rows, columns = run.config.sample.grid_rows, grid_classes(run.facts.num_classes).tolist()
    grid = torch.full((rows, len(columns), *run.facts.image_shape), 127, dtype=torch.uint8)
    for column, label in enumerate(columns):
        for row, index in enumerate((images.labels == label).nonzero()[:rows, 0].tolist()):
            grid[row, column] = images.image(index, None)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, encode_png(grid.flatten(0, 1), len(columns)))
