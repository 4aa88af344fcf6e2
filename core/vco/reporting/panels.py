"""Which curves a report shows of what was logged, and in which order."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from vco.folder import RunFolder
from vco.reporting.curves import Chart, Line
from vco.reporting.scores import Reading, by_metric, own

Records = Sequence[Mapping[str, float]]
"""The lines of metrics.jsonl."""
PACE: Final = {
    "seconds": ("seconds per step", "Waiting for images, the step itself, and the rest: samples, scores, checkpoints."),
    "images_per_second": ("images per second", "While it trains; samples, scores and checkpoints do not count."),
    "memory_gib": ("GPU memory (GiB)", "The most that tensors have taken so far."),
    "gradient_norm": ("gradient norm", "Of all parameters together, before clipping."),
    "learning_rate": ("learning rate", ""),
}
SPREAD: Final = {
    "rms": ("RMS", "Root mean square of the clean feature stream; the noise has 1 times its noise scale."),
    "effective_rank": ("effective rank", "How many directions the clean features vary in; 1 is a collapse."),
}
LEVEL: Final = re.compile(r"loss_at\.(.+)\.(\d+)-(\d+)")
"""Name of a loss at some times: stream, and both bounds in hundredths."""


def losses(records: Records) -> list[Chart]:
    """The total loss, then its parts."""
    note = "All losses together, each with its weight."
    return [
        _one(records, name, *(("loss", note) if name == "loss" else (f"{name} loss",))) for name in loss_names(records)
    ]


def loss_names(records: Records) -> list[str]:
    """The losses that were logged, the total first; without the terms that they consist of."""
    names = [name for name in _names(records) if "." not in name and not _has_own_panel(name)]
    return sorted(names, key=lambda name: name != "loss")


def noise_levels(records: Records) -> list[Chart]:
    """The loss of each stream by the time of its samples."""
    streams: dict[str, list[tuple[int, int, str]]] = {}
    for name in _names(records):
        if found := LEVEL.fullmatch(name):
            streams.setdefault(found[1], []).append((int(found[2]), int(found[3]), name))
    return [
        Chart(
            f"{stream} loss by time",
            [
                Line(f"t {low / 100:g} to {high / 100:g}", *_values(records, name), color=number)
                for number, (low, high, name) in enumerate(sorted(levels))
            ],
            note="Time 0 is pure noise, time 1 the clean sample.",
        )
        for stream, levels in streams.items()
    ]


def features(records: Records) -> list[Chart]:
    """Size and richness of the feature streams."""
    charts: list[Chart] = []
    for name in _names(records):
        stream, _, kind = name.rpartition(".")
        if kind in SPREAD and not stream.startswith("adapter"):
            title, note = SPREAD[kind]
            charts.append(_one(records, name, f"{stream}: {title}", note))
    return charts


def pace(records: Records) -> list[Chart]:
    """Speed, memory, gradient and learning rate."""
    names, charts = _names(records), list[Chart]()
    for key, (title, note) in PACE.items():
        if parts := [name for name in names if name.startswith(f"{key}.")]:
            lines = [Line(name.rpartition(".")[2], *_values(records, name), color=i) for i, name in enumerate(parts)]
            charts.append(Chart(title, lines, note=note))
        elif key in names:
            charts.append(_one(records, key, title, note))
    return charts


def components(records: Records) -> list[Chart]:
    """What adapters, losses and other components measure, and the terms of losses that have several."""
    return [_one(records, name) for name in _names(records) if "." in name and not _has_own_panel(name)]


def scores(readings: Sequence[Reading], folder: RunFolder) -> list[Chart]:
    """Every metric over the steps, and over the guidance scale where it was measured at several."""
    charts: list[Chart] = []
    for metric, found in by_metric(own(readings, folder)).items():
        newest = found[-1]
        best = f"{'Higher' if newest.higher_is_better else 'Lower'} is better."
        real = [reading.real_value for reading in found if reading.real_value is not None]
        level = ("real images", real[-1]) if real else None
        if len(found) > 1:
            line = Line(metric, [r.step for r in found], [r.value for r in found], points=True)
            charts.append(Chart(f"{newest.title} over steps", [line], note=best, level=level))
        swept: dict[float, list[float]] = {}
        for reading in readings:
            if reading.scale is not None and reading.like(newest, "scale", "seed"):
                swept.setdefault(reading.scale, []).append(reading.value)
        if len(swept) > 1:
            scales = sorted(swept)
            line = Line(metric, scales, [sum(swept[s]) / len(swept[s]) for s in scales], points=True)
            title, note = f"{newest.title} over guidance scale", f"After step {newest.step}. {best}"
            charts.append(Chart(title, [line], "guidance scale", note, level))
    return charts


def _names(records: Records) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record if name != "step"))


def _has_own_panel(name: str) -> bool:
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    return first in PACE or bool(LEVEL.fullmatch(name)) or ("." in name and last in SPREAD and first != "adapter")


def _one(records: Records, name: str, title: str = "", note: str = "") -> Chart:
    return Chart(title or name, [Line(name, *_values(records, name))], note=note)


def _values(records: Records, name: str) -> tuple[list[float], list[float]]:
    there = [record for record in records if name in record]
    return [record["step"] for record in there], [record[name] for record in there]
