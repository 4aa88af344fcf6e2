"""Which settings are tried, which one is best, and what is said about it."""

import pytest

from vco.evaluation.sweep import Setting, Tried, best, cautions, describe, settings


def tried(scores: dict[str, list[float]], higher: bool = False, key: str = "scale") -> list[Tried]:
    return [
        Tried(setting=Setting(values={key: value}), title="FD", values=found, higher_is_better=higher)
        for value, found in scores.items()
    ]


def test_all_combinations_are_tried_and_what_is_not_named_stays() -> None:
    found = settings({"scale": ["1", "2"], "low": None, "ema": [0, None]})
    assert [dict(one.values) for one in found] == [
        {"scale": "1", "ema": 0}, {"scale": "1", "ema": None}, {"scale": "2", "ema": 0}, {"scale": "2", "ema": None}
    ]  # fmt: skip
    assert found[1].options == ["--guidance.scale", "1"]
    assert str(found[1]) == "scale 1, ema none"


@pytest.mark.parametrize(("higher", "winner"), [(False, "2"), (True, "1")])
def test_the_best_is_the_best_by_the_direction_of_the_score(higher: bool, winner: str) -> None:
    found = tried({"1": [3.0, 5.0], "2": [1.0, 2.0], "3": [2.0, 2.0]}, higher)
    assert best(found).setting.values["scale"] == winner
    assert describe(found).splitlines()[1].startswith(winner)


def test_a_best_value_at_an_end_is_said() -> None:
    assert cautions(tried({"1": [3.0], "2": [1.0], "3": [2.0]})) == []
    assert cautions(tried({"1": [1.0], "10": [2.0], "3": [3.0]})) == [
        "the best scale, 1, is the smallest that was tried: better ones may lie beyond"
    ]
    assert "is the largest" in cautions(tried({"1": [3.0], "10": [1.0], "3": [2.0]}))[0]
    assert cautions(tried({"0": [1.0], "none": [2.0]}, key="ema")) == []


def test_settings_within_the_spread_of_the_best_are_as_good() -> None:
    found = tried({"1": [3.0, 3.2], "2": [1.0, 2.0], "3": [1.5, 2.2], "4": [4.0, 4.0]})
    (ties,) = cautions(found)
    assert ties == "within the spread over seeds (0.707) these are as good as the best: scale 3"
