"""The pictures of compare_digits.py: sample grids side by side, and curves of the image stream's training loss."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

COLUMNS = 5
WINDOW = 2  # log lines of 25 steps each


def draw_grids(grids: Mapping[str, Path], path: Path) -> None:
    """Writes the sample grid of each run, under the run's name.

    Args:
        grids: name -> PNG with the sample grid.
        path: the PNG to write.
    """
    rows = -(-len(grids) // COLUMNS)
    figure = Figure(figsize=(3.0 * COLUMNS, 1.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    cells = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for cell in cells:
        cell.set_axis_off()
    for cell, (name, grid) in zip(cells, grids.items(), strict=False):
        with Image.open(grid) as image:
            cell.imshow(np.asarray(image.convert("RGB")), interpolation="nearest")
        cell.set_title(name, fontsize=8)
    figure.savefig(path, dpi=100)


def logged(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged, step by step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def draw_curves(folders: Mapping[str, Path], path: Path) -> None:
    """Writes the training loss of the image stream of each run that has one, in panels of six runs.

    Args:
        folders: name -> run folder.
        path: the PNG to write.
    """
    logs = {name: logged(folder) for name, folder in folders.items()}
    names = [name for name, lines in logs.items() if "image" in lines[-1]]
    groups = [names[i : i + 6] for i in range(0, len(names), 6)]
    figure = Figure(figsize=(3.6 * len(groups), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for panel, group in zip(panels, groups, strict=True):
        for name in group:
            lines = logs[name]
            loss = np.convolve([line["image"] for line in lines], np.ones(WINDOW) / WINDOW, mode="valid")
            panel.plot([line["step"] for line in lines][WINDOW - 1 :], loss, linewidth=1.2, label=name)
        panel.set_yscale("log")
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=7, which="both")
        panel.legend(fontsize=6.5)
    panels[0].set_ylabel("loss of the image stream", fontsize=8)
    figure.savefig(path, dpi=100)
