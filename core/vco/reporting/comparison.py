"""Runs put beside each other: seeds of one configuration as a group, scores at equal amounts of training."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import attrs

from vco.errors import UserError
from vco.folder import RunFolder
from vco.plugins.registry import Catalog
from vco.reporting import bootstrap
from vco.reporting.history import AXES
from vco.reporting.members import Group, Member, grouped, read_member, without_twins
from vco.reporting.scores import Reading, comparable, differences

MISSING: Final = object()
"""Stands for a setting that a group does not have."""
NEAR: Final = 0.9
"""Share of an amount of training that a score's model must have had, to be shown without a note."""


@attrs.frozen
class Taken:
    """The score of one run at some amount of training."""

    member: Member
    reading: Reading
    near: bool
    """Whether its model was trained for nearly that amount."""


@attrs.frozen
class Row:
    """The scores of a group at equal amounts of training."""

    group: Group
    taken: Sequence[Taken]

    @property
    def values(self) -> list[float]:
        """The score of each seed."""
        return [one.reading.value for one in self.taken]

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.values) / len(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the mean lies with 95 % confidence; None with a single seed."""
        return bootstrap.interval(self.values) if len(self.values) >= bootstrap.FEWEST else None


@attrs.frozen
class Verdict:
    """What can be said about two groups."""

    better: Group
    worse: Group
    by: float
    """How much better the first one's mean is, at least 0."""
    interval: tuple[float, float] | None
    """Where that lies with 95 % confidence; None if one of them has a single seed."""

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        names = f"{self.better.name} and {self.worse.name}"
        if self.interval is None:
            return f"{names} differ by {self.by:.3g}; with a single seed nobody can tell whether that is noise"
        low, high = self.interval
        if low <= 0:
            return f"{names} tie: they differ by {self.by:.3g} (95 % from {low:.3g} to {high:.3g})"
        return (
            f"{self.better.name} is better than {self.worse.name} by {self.by:.3g} (95 % from {low:.3g} to {high:.3g})"
        )


@attrs.frozen
class Table:
    """The scores of all groups that were measured alike, at an equal amount of training; the best comes first."""

    amounts: Mapping[str, float]
    """Axis -> how much; several where the same scores stand for all of them, as for steps and images."""
    rows: Sequence[Row]
    higher_is_better: bool

    @property
    def verdicts(self) -> list[Verdict]:
        """What can be said about every two groups."""
        return [self._verdict(*pair) for pair in combinations(self.rows, 2)]

    def _verdict(self, better: Row, worse: Row) -> Verdict:
        sign = 1 if self.higher_is_better else -1
        interval = None
        if min(len(better.values), len(worse.values)) >= bootstrap.FEWEST:
            low, high = bootstrap.difference(better.values, worse.values)
            interval = (low, high) if self.higher_is_better else (-high, -low)
        return Verdict(better.group, worse.group, sign * (better.mean - worse.mean), interval)


@attrs.frozen
class Board:
    """One metric, measured in one way."""

    metric: str
    title: str
    tables: Sequence[Table]
    left_out: Mapping[str, str]
    """Axis that no table has, and why."""
    scores: Mapping[int, Sequence[Reading]]
    """Number of a run in the comparison -> its scores over the steps."""


@attrs.frozen(slots=False)
class Comparison:
    """Some runs, sorted."""

    groups: Sequence[Group]
    boards: Sequence[Board]
    apart: Sequence[str]
    """Sentences about scores that are not compared, because they were measured in different ways."""
    left_out: Sequence[str] = ()
    """Sentences about runs that were named and are not in it."""

    @property
    def members(self) -> list[Member]:
        """All runs, group by group."""
        return [member for group in self.groups for member in group.members]

    def group_of(self, member: Member) -> Group:
        """The group of a run."""
        return next(group for group in self.groups if member in group.members)

    @cached_property
    def differing(self) -> dict[str, list[Any]]:
        """Settings in which the groups differ -> their values, in the order of groups."""
        keys = dict.fromkeys(key for group in self.groups for key in group.settings)
        values = {key: [group.settings.get(key, MISSING) for group in self.groups] for key in keys}
        return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def compare(folders: Sequence[Path], catalog: Catalog) -> Comparison:
    """Reads runs and puts them beside each other.

    Args:
        folders: run folders, at least two.
        catalog: the plugins on offer, which know what settings mean.

    Raises:
        UserError: if there are fewer than two different runs, or one has no settings or no score.
    """
    different: dict[Path, Path] = {}
    left_out: list[str] = []
    for folder in folders:
        left_out += [f"{folder} is named twice, and counts once"] if folder.resolve() in different else []
        different.setdefault(folder.resolve(), folder)
    members, twins = without_twins([read_member(RunFolder(folder), catalog) for folder in different.values()])
    left_out += twins
    if len(members) < 2:
        why = f": {'; '.join(left_out)}" if left_out else ": vco compare RUN RUN"
        raise UserError(f"a comparison needs two different runs or more{why}")
    groups = grouped(members)
    boards, apart = _boards(groups)
    return Comparison(groups=groups, boards=boards, apart=apart, left_out=left_out)


def _boards(groups: Sequence[Group]) -> tuple[list[Board], list[str]]:
    """A board for each metric and way of measuring it that two runs or more share."""
    members = [member for group in groups for member in group.members]
    ways: list[dict[int, list[Reading]]] = []  # number of a run -> its scores, of each way of measuring
    for number, member in enumerate(members):
        for reading in member.readings:
            alike = next((way for way in ways if comparable(next(iter(way.values()))[0], reading)), None)
            if alike is None:
                alike = {}
                ways.append(alike)
            alike.setdefault(number, []).append(reading)
    apart = [
        _apart(members, one, other)
        for one, other in combinations(ways, 2)
        if next(iter(one.values()))[0].metric == next(iter(other.values()))[0].metric
    ]
    return [_board(groups, members, way) for way in ways if len(way) > 1], apart


def _apart(members: Sequence[Member], one: Mapping[int, list[Reading]], other: Mapping[int, list[Reading]]) -> str:
    first, second = next(iter(one.values()))[0], next(iter(other.values()))[0]
    names = [", ".join(members[number].name for number in way) for way in (one, other)]
    reasons = "; ".join(differences(first, second))
    return f"{first.metric} of {names[0]} and of {names[1]} are not compared, because they differ in {reasons}"


def _board(groups: Sequence[Group], members: Sequence[Member], way: Mapping[int, list[Reading]]) -> Board:
    sample = next(iter(way.values()))[0]
    tables: list[Table] = []
    left_out: dict[str, str] = {}
    for axis, name in AXES.items():
        ends = {number: members[number].history.amount(axis, way[number][-1].step) for number in way}
        if unknown := [members[number].name for number, end in ends.items() if end is None]:
            left_out[name] = f"not known of {', '.join(unknown)}"
            continue
        budget = min(end for end in ends.values() if end is not None)
        rows: list[Row] = []
        for group in groups:
            taken = [
                found
                for number, member in enumerate(members)
                if number in way and member in group.members
                if (found := _at(member, way[number], axis, budget)) is not None
            ]
            rows += [Row(group, taken)] if taken else []
        rows.sort(key=lambda row: row.mean, reverse=sample.higher_is_better)
        amounts = {axis: budget}
        if tables and [row.taken for row in tables[-1].rows] == [row.taken for row in rows]:
            amounts = {**tables.pop().amounts, **amounts}
        tables.append(Table(amounts, rows, sample.higher_is_better))
    return Board(sample.metric, sample.title, tables, left_out, way)


def _at(member: Member, readings: Sequence[Reading], axis: str, budget: float) -> Taken | None:
    """The newest score of a run that had at most this amount of training; None if there is none."""
    amounts = [(member.history.amount(axis, reading.step) or 0.0, reading) for reading in readings]
    fits = [(amount, reading) for amount, reading in amounts if amount <= budget * (1 + 1e-9)]
    if not fits:
        return None
    amount, reading = fits[-1]
    return Taken(member, reading, near=amount >= NEAR * budget)
