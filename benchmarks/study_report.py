"""The page of the study: tables and pictures, made of the lines that the study has written."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study_plan import REFERENCE, datasets, read_config, run_of

from vco.reporting import bootstrap
from vco.storage.files import write_atomic

BEGIN, END = "<!-- written by benchmarks/study.py --report -->", "<!-- end of what it writes -->"
POINTS = {"unguided": "unguided", "best": "best scale", "flops": "equal FLOPs", "time": "equal time"}
"""Kind of a score -> its column."""
COLUMNS = 5


@attrs.frozen(kw_only=True)
class Method:
    """What was found of a method with one set of sizes: kind of work -> a line for each training seed."""

    name: str
    lines: Mapping[str, Sequence[Mapping[str, Any]]]

    def values(self, kind: str, metric: str) -> list[float]:
        """A score of each training seed, the mean over its sampling seeds."""
        return [
            statistics.mean(line["values"][metric]) for line in self.lines.get(kind, ()) if metric in line["values"]
        ]

    def first(self, kind: str, key: str) -> Any:
        """Something that was noted with the first training seed; None if nothing was."""
        found = self.lines.get(kind, ())
        return found[0].get(key) if found else None


def write_report(found: Sequence[Mapping[str, Any]], names: Sequence[str], work: Path, page: Path) -> None:
    """Writes the marked section of the page, and its pictures beside it.

    Args:
        found: the lines of the study.
        names: the data sets that are reported.
        work: where its runs lie; pictures are drawn of those that are there.
        page: the Markdown file; without the marks, or where there is none, the section is added at its end.
    """
    sections: list[str] = []
    for data, more in dict.fromkeys((line["data"], line["more"]) for line in found if line["data"] in names):
        methods = _methods(found, data, more)
        if not methods:
            continue
        name = "study_" + data.replace("-", "_") + "_rehearsed" * bool(more)
        sections += [_section(data, more, methods)]
        folders = {method.name: folder for method in methods if (folder := _folder(data, method, work))}
        if folders:
            draw_samples(folders, page.with_name(f"{name}_samples.png"))
            sections.append(f"![samples of every method at its best scale]({name}_samples.png)\n")
        draw_sweeps(methods, page.with_name(f"{name}_scales.png"))
        sections.append(f"![score of every method over the guidance scale]({name}_scales.png)\n")
        draw_losses(methods, page.with_name(f"{name}_losses.png"))
        sections.append(f"![image loss of every method over the steps]({name}_losses.png)\n")
    text = page.read_text() if page.exists() else "# Study\n"
    text = text if BEGIN in text else f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, after = text.split(BEGIN)
    write_atomic(page, f"{before}{BEGIN}\n\n" + "\n".join(sections) + f"\n{END}{after.split(END)[1]}")


def _methods(found: Sequence[Mapping[str, Any]], data: str, more: str) -> list[Method]:
    """The methods in the order of study.yaml, with what was found under their present settings."""
    methods: list[Method] = []
    for name in read_config()[1]:
        now = run_of(datasets([data], small=bool(more))[0], name, 0, Path()).config
        mine = [line for line in found if (line["data"], line["more"], line["method"]) == (data, more, name)]
        current = [line for line in mine if line["config"] == now] or mine  # a rehearsal has sizes of its own
        lines: dict[str, list[Mapping[str, Any]]] = {}
        for line in sorted(current, key=lambda line: line["seed"]):
            lines.setdefault(line["kind"], []).append(line)
        methods += [Method(name=name, lines=lines)] if lines else []
    return methods


def _folder(data: str, method: Method, work: Path) -> Path | None:
    """The folder of a method's first run, if its samples are there."""
    folder = work / data / str(method.first("train", "folder"))
    return folder if (folder / "study-samples.npz").exists() else None


def _section(data: str, more: str, methods: Sequence[Method]) -> str:
    """The tables of one data set, one for each feature space."""
    scored = [method for method in methods if method.lines.get("unguided")]
    metrics = list(dict.fromkeys(m for method in scored for m in method.lines["unguided"][0]["values"]))
    parts = [f"## {data}" + (" (a rehearsal with tiny networks)" if more else "") + "\n"]
    parts += [_table(metric, scored) for metric in metrics]
    parts.append(_costs(methods))
    return "\n".join(parts)


def _table(metric: str, methods: Sequence[Method]) -> str:
    """The scores in one feature space: mean over training seeds, with its interval where there are several."""
    real = next(line["real"][metric] for method in methods for line in method.lines["unguided"])
    seeds = max(len(method.lines["unguided"]) for method in methods)
    head = ["method", *POINTS.values(), "its scale", "seeds"]
    rows: list[list[str]] = []
    leaders = {kind: _leader(methods, kind, metric) for kind in POINTS}
    for method in sorted(methods, key=lambda m: statistics.mean(m.values("best", metric) or [float("inf")])):
        cells = [_cell(method, leaders[kind], kind, metric) for kind in POINTS]
        rows.append([method.name, *cells, _scale(method), str(len(method.lines["unguided"]))])
    known = f"{real:.3f}" if real is not None else "nothing known"
    title = f"### {metric}\n\nLower is better; real images score {known}.{_ties(seeds)}\n"
    return "\n".join([title, _markdown(head, rows)])


def _scale(method: Method) -> str:
    """The scale that was chosen; one at the end of what was tried may not be the best there is."""
    scale, tried = method.first("sweep", "scale"), method.first("sweep", "tried")
    if scale is None:
        return ""
    return f"{scale:g}" + (" (the largest tried)" if scale == max(one for one, _, _ in tried) else "")


def _ties(seeds: int) -> str:
    if seeds < bootstrap.FEWEST:
        return " One training seed: nobody can tell a better method from a luckier one."
    return (
        f" Means over {seeds} training seeds, with 95 % bootstrap intervals; *tie*: the difference to the best of the "
        "column has an interval that holds 0."
    )


def _leader(methods: Sequence[Method], kind: str, metric: str) -> Method | None:
    """The method with the lowest mean."""
    there = [method for method in methods if method.values(kind, metric)]
    return min(there, key=lambda method: statistics.mean(method.values(kind, metric)), default=None)


def _cell(method: Method, leader: Method | None, kind: str, metric: str) -> str:
    values = method.values(kind, metric)
    if not values or leader is None:
        return ""
    text, steps = f"{statistics.mean(values):.3f}", method.first(kind, "steps")
    if len(values) >= bootstrap.FEWEST:
        low, high = bootstrap.interval(values)
        text += f" ({max(0.0, low):.2f} to {high:.2f})"  # no distance is below 0
    text += f", {steps} steps" if kind in ("flops", "time") else ""
    if method is leader:
        return f"**{text}**"
    best = leader.values(kind, metric)
    if min(len(values), len(best)) >= bootstrap.FEWEST and bootstrap.difference(values, best)[0] <= 0:
        text += " tie"
    return text


def _costs(methods: Sequence[Method]) -> str:
    """What each method costs, and whether it has learned images by heart."""
    reference = next((method for method in methods if method.name == REFERENCE), None)
    rows: list[list[str]] = []
    for method in methods:
        row = [method.name]
        mine, base = (one and one.first("train", "flops_per_image") for one in (method, reference))
        row.append(f"{mine / base:.2f}" if mine and base else "")
        pace = method.first("pace", "over_reference")
        row.append("" if pace is None else f"{pace:.2f}")
        near, of = method.first("neighbours", "near"), method.first("neighbours", "of")
        size = method.first("train", "parameters")
        row += ["" if size is None else f"{size['backbone'] / 1e6:.2f} M", "" if near is None else f"{near} of {of}"]
        rows.append(row)
    head = [
        "method",
        "FLOPs of a step, over JiT",
        "time of a step, over JiT",
        "network",
        "samples near a training image",
    ]
    text = (
        "### Cost and memory\n\nA sample is *near* a training image if it is nearer than 99 of 100 held-out images "
        "are; one in a hundred is chance.\n"
    )
    return "\n".join([text, _markdown(head, rows)])


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def draw_samples(folders: Mapping[str, Path], path: Path) -> None:
    """Draws the samples of each method, the same noise and classes in each panel."""
    across = min(COLUMNS, len(folders))
    count = -(-len(folders) // across)
    figure = Figure(figsize=(3.0 * across, 2.9 * count), layout="constrained")
    FigureCanvasAgg(figure)
    cells = list(figure.subplots(count, across, squeeze=False).flat)
    for cell in cells:
        cell.set_axis_off()
    for cell, (name, folder) in zip(cells, folders.items(), strict=False):
        with np.load(folder / "study-samples.npz") as stored:
            images = stored["arr_0" if "arr_0" in stored else "images"]
        side = 5 * (len(images) // 5)
        framed = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=127)  # else digits flow together
        rows = [np.concatenate(list(framed[start : start + 5]), 1) for start in range(0, min(side, 25), 5)]
        sheet = np.concatenate(rows, 0)
        cell.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        cell.set_title(name, fontsize=9)
    figure.savefig(path, dpi=80)


def draw_sweeps(methods: Sequence[Method], path: Path) -> None:
    """Draws the score of each method over the guidance scale, on the seeds on which the scale is chosen."""
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for method in methods:
        if tried := method.first("sweep", "tried"):
            scales = sorted({scale for scale, _, _ in tried})
            means = [statistics.mean(value for s, _, value in tried if s == scale) for scale in scales]
            curves[method.name] = scales, means
    _draw(curves, "guidance scale (1 is unguided)", "FD on the seeds of the sweep", path, marker="o", markersize=3)


def draw_losses(methods: Sequence[Method], path: Path) -> None:
    """Draws the loss of the image stream of each method over the steps, with the first training seed."""
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for method in methods:
        if points := method.first("train", "loss"):
            curves[method.name] = [step for step, _ in points], [loss for _, loss in points]
    _draw(curves, "training step", "loss of the image stream", path)


def _draw(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], across: str, up: str, path: Path, **look: Any
) -> None:
    figure = Figure(figsize=(8.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for number, (name, (x, y)) in enumerate(curves.items()):
        panel.plot(x, y, linewidth=1.2, linestyle=("-", "--", ":")[number // 10], label=name, **look)
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    if panel.lines:
        panel.set_yscale("log")
        figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=90)
