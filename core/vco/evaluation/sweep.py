"""Settings for sampling that are tried one after the other, and what their scores say."""

import itertools
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import attrs

from vco.evaluation.summary import spread, table


@attrs.frozen(kw_only=True)
class Setting:
    """One combination of settings."""

    values: Mapping[str, Any]
    """What is tried -> its value here: "scale", "low", "high", "steps" or "ema"."""

    @property
    def options(self) -> list[str]:
        """The options of `vco-run` that set it; the average is none of them."""
        names = {"scale": "guidance.scale", "low": "guidance.low", "high": "guidance.high", "steps": "sample.steps"}
        chosen = {names[key]: value for key, value in self.values.items() if key in names}
        return [part for name, value in chosen.items() for part in (f"--{name}", str(value))]

    def __str__(self) -> str:
        return ", ".join(f"{key} {'none' if value is None else value}" for key, value in self.values.items())


@attrs.frozen(kw_only=True)
class Tried:
    """A setting and its scores, one for each seed."""

    setting: Setting
    title: str
    """Name of the score."""
    values: Sequence[float]
    higher_is_better: bool

    @property
    def rank(self) -> float:
        """Its mean score, such that less is better."""
        return -mean(self.values) if self.higher_is_better else mean(self.values)


def settings(tried: Mapping[str, Sequence[Any] | None]) -> list[Setting]:
    """All combinations of the values to try; what is None is left as it is."""
    known = {key: values for key, values in tried.items() if values is not None}
    return [Setting(values=dict(zip(known, chosen, strict=True))) for chosen in itertools.product(*known.values())]


def best(tried: Sequence[Tried]) -> Tried:
    """The setting with the best mean score, the first of equals."""
    return min(tried, key=lambda one: one.rank)


def describe(tried: Sequence[Tried]) -> str:
    """A table of all settings, the best one first."""
    keys = list(tried[0].setting.values)
    ranked = sorted(tried, key=lambda one: one.rank)
    rows = [[*keys, tried[0].title]]
    for one in ranked:
        shown = ["none" if value is None else str(value) for value in one.setting.values.values()]
        rows.append([*shown, spread(one.values)])
    return table(rows)


def cautions(tried: Sequence[Tried]) -> list[str]:
    """What a reader of the best setting has to know: that it lies at an end of what was tried, or is one of several."""
    winner, found = best(tried), list[str]()
    for key in winner.setting.values:
        values = [one.setting.values[key] for one in tried]
        numeric = sorted({float(value) for value in values}) if key != "ema" else []
        here = winner.setting.values[key]
        if len(numeric) > 1 and float(here) in (numeric[0], numeric[-1]):
            end = "smallest" if float(here) == numeric[0] else "largest"
            found.append(f"the best {key}, {here}, is the {end} that was tried: better ones may lie beyond")
    if len(winner.values) > 1:
        noise = stdev(winner.values)
        ties = [one for one in tried if one is not winner and one.rank <= winner.rank + noise]
        if ties:
            found.append(
                f"within the spread over seeds ({noise:.3g}) these are as good as the best: "
                + "; ".join(str(one.setting) for one in ties)
            )
    return found
