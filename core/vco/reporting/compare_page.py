"""The page of a comparison: tables, curves of every group, samples beside each other, settings that differ."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from vco import __version__
from vco.reporting.comparison import Board, Comparison, Group
from vco.reporting.curves import Chart, Line
from vco.reporting.history import AXES
from vco.reporting.panels import loss_names
from vco.reporting.pictures import Picture, embed
from vco.reporting.report import class_columns, environment
from vco.reporting.tables import cost_table, differing_table, runs_table, score_table

FEW: Final = 40
"""Points of a line up to which each is marked."""
Values = dict[int | float, float]
"""Step -> value."""


def page(comparison: Comparison) -> str:
    """The page as HTML, with all that it shows in it."""
    names = [group.name for group in comparison.groups]
    first = comparison.members[0].history.folder
    return (
        environment()
        .get_template("compare.html")
        .render(
            version=__version__,
            title=" and ".join([", ".join(names[:-1]), names[-1]])
            if 1 < len(names) < 4
            else f"{len(names)} configurations",
            boards=[_board(comparison, board) for board in comparison.boards],
            apart=[*comparison.left_out, *comparison.apart],
            losses=_losses(comparison),
            samples=_samples(comparison),
            columns=class_columns(first)[0],
            differing=differing_table(comparison),
            cost=cost_table(comparison),
            runs=runs_table(comparison),
        )
    )


def _board(comparison: Comparison, board: Board) -> dict[str, Any]:
    """One metric: a table and a chart for each amount that can be equal."""
    numbers = {id(member): number for number, member in enumerate(comparison.members)}

    def scores(group: Group) -> list[Values]:
        there = [board.scores.get(numbers[id(member)], ()) for member in group.members]
        return [{reading.step: reading.value for reading in readings} for readings in there]

    several = any(len(readings) > 1 for readings in board.scores.values())
    known = [axis for axis in _axes(comparison) if AXES[axis] not in board.left_out]
    real = [r.real_value for readings in board.scores.values() for r in readings if r.real_value is not None]
    level = ("real images", real[-1]) if real else None
    return {
        "heading": board.title,
        "tables": [score_table(comparison, board, table) for table in board.tables],
        "notes": [f"Not compared at equal {axis}: {reason}." for axis, reason in board.left_out.items()],
        "charts": [_chart(comparison, board.title, axis, scores, level) for axis in known] if several else [],
    }


def _losses(comparison: Comparison) -> list[Chart]:
    """The losses that all runs have, over each amount of training."""
    logged = [loss_names(member.history.records) for member in comparison.members]
    common = [name for name in logged[0] if all(name in names for names in logged)]

    def values(name: str) -> Callable[[Group], list[Values]]:
        return lambda group: [
            {record["step"]: record[name] for record in member.history.records if name in record}
            for member in group.members
        ]

    titles = {name: name if name == "loss" else f"{name} loss" for name in common}
    return [
        _chart(comparison, title, axis, values(name)) for name, title in titles.items() for axis in _axes(comparison)
    ]


def _axes(comparison: Comparison) -> list[str]:
    """The amounts of training that are known of all runs; images only where they are not just steps."""
    histories = [member.history for member in comparison.members]
    known = [axis for axis in AXES if all(history.amount(axis, 1) is not None for history in histories)]
    same_batch = len({history.batch_size for history in histories}) == 1
    return [axis for axis in known if axis != "images" or not same_batch]


def _chart(
    comparison: Comparison,
    title: str,
    axis: str,
    values: Callable[[Group], list[Values]],
    level: tuple[str, float] | None = None,
) -> Chart:
    """A line for each group: the mean of its seeds, and a band from the lowest to the highest."""
    lines: list[Line] = []
    for color, group in enumerate(comparison.groups):
        seeds = [(member, found) for member, found in zip(group.members, values(group), strict=True) if found]
        steps = sorted(set[int | float].intersection(*(set(found) for _, found in seeds))) if seeds else []
        if not steps:
            continue
        table = np.array([[found[step] for step in steps] for _, found in seeds])
        amounts = np.array([[member.history.amount(axis, step) or 0.0 for step in steps] for member, _ in seeds])
        several = len(seeds) > 1
        lines.append(
            Line(
                f"{group.name} ({len(seeds)} seeds)" if several else group.name,
                amounts.mean(0).tolist(),
                table.mean(0).tolist(),
                color,
                table.min(0).tolist() if several else (),
                table.max(0).tolist() if several else (),
                len(steps) <= FEW,
            )
        )
    return Chart(f"{title} over {AXES[axis]}", lines, AXES[axis], level=level)


def _samples(comparison: Comparison) -> Sequence[tuple[str, Picture]]:
    """The last sample grid of each group's first run, after training images."""
    found: list[tuple[str, Picture]] = []
    real = next((shown for member in comparison.members if (shown := embed(member.history.folder.real, 1000))), None)
    found += [("Training images", real)] if real else []
    for group in comparison.groups:
        grids = list(group.members[0].history.folder.grids().items())
        if grids and (shown := embed(grids[-1][1], 1000)):
            found.append((f"{group.name}, seed {group.members[0].seed}, after step {grids[-1][0]}", shown))
    return found
