"""The scores of a run folder, sorted by how they were measured, so that only like is drawn or compared with like."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs

from vco.evaluation import protocol, records
from vco.folder import RunFolder


@attrs.frozen(kw_only=True)
class Reading:
    """One score of one state of a model."""

    metric: str
    title: str
    """The metric with the number of images, and with its published name only where that is right."""
    value: float
    real_value: float | None
    """The score of real images: what a perfect generator would get."""
    higher_is_better: bool
    step: int
    protocol: Mapping[str, Any]
    """How it was measured (`vco.evaluation.protocol.Protocol`); empty where nobody has noted it."""
    swept: bool
    """Whether it comes from a search for settings, whose scores are not to be reported."""
    sampling: Mapping[str, Any]
    """How the images were made: guidance, solver, average of the weights, seed."""
    seeds: int = 1
    """How many samplings with different seeds it is the mean of."""

    @property
    def scale(self) -> float | None:
        """The guidance scale; None where guidance has none."""
        scale = self.sampling.get("guidance", {}).get("scale")
        return float(scale) if isinstance(scale, int | float) else None

    def like(self, other: "Reading", *but: str) -> bool:
        """Whether both are of one metric, measured alike, and their images made alike, but for what is named.

        Args:
            other: another score.
            but: "step", or keys of `sampling`; "scale" is the guidance scale.
        """
        mine, theirs = (_without(reading.sampling, but) for reading in (self, other))
        same_step = "step" in but or self.step == other.step
        return same_step and comparable(self, other) and mine == theirs


def comparable(one: Reading, other: Reading) -> bool:
    """Whether two scores were measured alike."""
    return one.metric == other.metric and not differences(one, other)


def differences(one: Reading, other: Reading) -> list[str]:
    """What keeps two scores of one metric from being compared, a phrase each."""
    return protocol.differences({"protocol": one.protocol or None}, {"protocol": other.protocol or None})


def read_scores(folder: RunFolder) -> list[Reading]:
    """All scores of a run that can be read, in the order of steps; the newest of those that say the same thing."""
    last = folder.score()
    readings: list[Reading] = []
    for line in [*records.read(folder.evals), *([last] if last else [])]:
        for reading in _readings(line):
            readings = [other for other in readings if not other.like(reading)] + [reading]
    return sorted(readings, key=lambda reading: reading.step)


def own(readings: Sequence[Reading], folder: RunFolder) -> list[Reading]:
    """The scores that were measured and sampled as the run's newest ones, of every metric and at every step.

    Where a state was sampled with several seeds, they count as one score, their mean.
    """
    newest: dict[str, Reading] = {}
    for reading in [*_readings(folder.score() or {}), *reversed([r for r in readings if not r.swept])]:
        newest[reading.metric] = newest.get(reading.metric, reading)
    of_states: dict[tuple[str, int], list[Reading]] = {}
    for reading in readings:
        if not reading.swept and reading.metric in newest and reading.like(newest[reading.metric], "step", "seed"):
            of_states.setdefault((reading.metric, reading.step), []).append(reading)
    return [
        attrs.evolve(found[-1], value=sum(one.value for one in found) / len(found), seeds=len(found))
        for found in of_states.values()
    ]


def by_metric(readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    """Metric -> its scores."""
    found: dict[str, list[Reading]] = {}
    for reading in readings:
        found.setdefault(reading.metric, []).append(reading)
    return found


def _readings(line: Mapping[str, Any]) -> Iterator[Reading]:
    """The scores in a line of evals.jsonl, or in eval.json; nothing where it is not what vco wrote."""
    for score in line.get("scores", [line]):
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            real = score.get("real_value")
            yield Reading(
                metric=str(score["metric"]),
                title=str(score.get("title", score["metric"])),
                value=float(score["value"]),
                real_value=None if real is None else float(real),
                higher_is_better=bool(score.get("higher_is_better", False)),
                step=int(line["step"]),
                protocol=dict(score.get("protocol") or {}),
                swept=line.get("by") == records.SWEEP,
                sampling={
                    "guidance": dict(line.get("guidance") or {}),
                    "solver": line.get("solver"),
                    "steps": (line.get("sample") or {}).get("steps"),
                    "ema_decay": line.get("ema_decay"),
                    "seed": line.get("seed"),
                },
            )


def _without(sampling: Mapping[str, Any], but: Sequence[str]) -> dict[str, Any]:
    kept = {key: value for key, value in sampling.items() if key not in but}
    if "scale" in but:
        kept["guidance"] = {key: value for key, value in kept.get("guidance", {}).items() if key != "scale"}
    return kept
