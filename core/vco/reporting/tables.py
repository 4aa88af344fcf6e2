"""A comparison of runs as tables: for a page, for a terminal, for Markdown and for other programs."""

import statistics
from collections.abc import Sequence
from typing import Any, Final

import attrs

from vco.config.plain import as_text
from vco.reporting.comparison import MISSING, Board, Comparison, Table
from vco.reporting.curves import short
from vco.reporting.history import AXES
from vco.reporting.scores import by_metric

UNITS: Final = {
    "step": "{:,.0f} steps",
    "images": "{:,.0f} images seen",
    "flops": "{} training FLOPs",
    "hours": "{:.3g} hours of training",
}
"""How an amount of training is written."""


@attrs.frozen
class Shown:
    """A table as text."""

    heading: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    verdicts: Sequence[str] = ()
    notes: Sequence[str] = ()

    def text(self) -> str:
        """For a terminal: columns of equal width."""
        widths = [max(len(row[column]) for row in (self.head, *self.rows)) for column in range(len(self.head))]
        lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
                 for row in (self.head, *self.rows)]  # fmt: skip
        return "\n".join([self.heading, *(f"  {line}" for line in lines), *self.verdicts, *self.notes])

    def markdown(self) -> str:
        """For a document."""

        def line(values: Sequence[str]) -> str:
            return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"

        rows = [line(self.head), line(["---"] * len(self.head)), *(line(row) for row in self.rows)]
        said = [f"- {sentence}" for sentence in (*self.verdicts, *self.notes)]
        return "\n".join([f"### {self.heading}", "", *rows, "", *said])


def score_table(comparison: Comparison, board: Board, table: Table) -> Shown:
    """The scores at an equal amount of training."""
    rows: list[list[str]] = []
    for row in table.rows:
        interval = "unknown" if row.interval is None else f"{row.interval[0]:.4g} to {row.interval[1]:.4g}"
        spread = f"{statistics.stdev(row.values):.3g}" if len(row.values) > 1 else "unknown"
        steps = ", ".join(map(str, sorted({one.reading.step for one in row.taken})))
        rows.append([row.group.name, f"{row.mean:.4g}", spread, interval, str(len(row.values)), steps])
    taken = [one for row in table.rows for one in row.taken]
    early = [f"{one.member.name} (step {one.reading.step})" for one in taken if not one.near]
    members = [comparison.members[number] for number in board.scores]
    missing = [member.name for member in members if all(one.member is not member for one in taken)]
    notes: list[str] = []
    if early:
        notes.append(f"Scored well before that amount, so at a disadvantage: {', '.join(early)}; see --eval.every.")
    if missing:
        notes.append(f"Not scored up to that amount: {', '.join(missing)}; see --eval.every.")
    devices = {
        str(session["device"]) for member in members for session in member.history.sessions if "device" in session
    }
    if "hours" in table.amounts and len(devices) > 1:
        notes.append(f"The hours are of different devices: {', '.join(sorted(devices))}.")
    best = "higher is better" if table.higher_is_better else "lower is better"
    return Shown(
        f"{board.title} at {' and '.join(amount(axis, value) for axis, value in table.amounts.items())} ({best})",
        ["runs", "mean", "std", "95 % interval", "seeds", "scored at step"],
        rows,
        [verdict.sentence for verdict in table.verdicts],
        notes,
    )


def amount(axis: str, value: float) -> str:
    """An amount of training in words: "2,000 images seen"."""
    return UNITS[axis].format(short(value) if axis == "flops" else value)


def differing_table(comparison: Comparison, shared: bool = False) -> Shown:
    """The settings in which groups differ.

    Args:
        comparison: the runs.
        shared: leave out the options of components that some groups do not have.
    """
    names = [group.name for group in comparison.groups]
    kept = {
        key: values
        for key, values in comparison.differing.items()
        if not shared or key.endswith(".name") or all(key in group.settings for group in comparison.groups)
    }
    rows = [[key, *(_value(value) for value in values)] for key, values in kept.items()]
    left_out = len(comparison.differing) - len(kept)
    notes = [f"and {left_out} options of components that not all of them have (see a page: --out FILE.html)"]
    return Shown("Settings that differ", ["setting", *names], rows, notes=notes if left_out else ())


def _value(value: Any) -> str:
    """A setting as it is written on the command line; a dash where there is none."""
    return "-" if value is MISSING else as_text(value) or "none"


def cost_table(comparison: Comparison) -> Shown:
    """What a run of each group has cost."""
    rows: list[list[str]] = []
    for group in comparison.groups:
        for member in group.members:
            history = member.history
            parameters = sum((history.cost.get("parameters") or {}).values())
            amounts = {axis: history.amount(axis, history.step) for axis in AXES}
            device = str(history.sessions[-1].get("device", "")) if history.sessions else ""
            shown = ["unknown" if (x := amounts[axis]) is None else short(round(x, 4)) for axis in AXES]
            rows.append([member.name, short(parameters) if parameters else "unknown", *shown, device or "unknown"])
    return Shown("Cost", ["run", "parameters", "steps", "images seen", "FLOPs", "hours", "device"], rows)


def runs_table(comparison: Comparison) -> Shown:
    """Every run, with its newest scores."""
    rows = [
        [
            member.name,
            group.name,
            str(member.seed),
            ", ".join(
                f"{r[-1].title} {r[-1].value:.4g} (step {r[-1].step})" for r in by_metric(member.readings).values()
            ),
            str(member.history.sessions[-1].get("commit", ""))[:12] if member.history.sessions else "",
        ]
        for group in comparison.groups
        for member in group.members
    ]
    return Shown("Runs", ["run", "group", "seed", "newest score", "commit"], rows)


def plain(comparison: Comparison) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        "groups": {
            group.name: [str(member.history.folder.path) for member in group.members] for group in comparison.groups
        },
        "scores": [row for board in comparison.boards for row in _plain_rows(comparison, board)],
        "tables": [
            {
                "metric": board.metric,
                "amounts": {AXES[axis]: value for axis, value in table.amounts.items()},
                "rows": [
                    {"group": row.group.name, "mean": row.mean, "values": row.values, "interval": row.interval}
                    for row in table.rows
                ],
                "verdicts": [
                    {"better": v.better.name, "worse": v.worse.name, "by": v.by, "interval": v.interval}
                    for v in table.verdicts
                ],
            }
            for board in comparison.boards
            for table in board.tables
        ],
        "differing": {
            key: [None if v is MISSING else v for v in values] for key, values in comparison.differing.items()
        },
        "not compared": list(comparison.apart),
        "left out": list(comparison.left_out),
    }


def _plain_rows(comparison: Comparison, board: Board) -> list[dict[str, Any]]:
    """Every score that is compared, one by one."""
    rows: list[dict[str, Any]] = []
    for number, readings in board.scores.items():
        member = comparison.members[number]
        for reading in readings:
            amounts = {AXES[axis]: member.history.amount(axis, reading.step) for axis in AXES}
            group = comparison.group_of(member).name
            named = {"group": group, "run": member.name, "seed": member.seed, "metric": board.metric}
            rows.append({**named, **amounts, "value": reading.value})
    return rows
