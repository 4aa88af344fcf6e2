"""`vco compare`: groups of seeds, scores at equal amounts of training, ties, and what may not be compared."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_runs import PROTOCOL, made_run, with_facts, without_settings

from vco.cli import main_vco
from vco.plugins.discovery import load_catalog
from vco.reporting import bootstrap
from vco.reporting.comparison import Comparison, Table, compare

Capture = pytest.CaptureFixture[str]
JIT = ("--backbone", "jit", "--adapter", "none", "--guidance", "cfg", "--loss", "none")


def compared(*folders: Path) -> Comparison:
    return compare(folders, load_catalog())


def seeds(place: Path, name: str, values: Sequence[float], *options: str) -> list[Path]:
    """Runs of one configuration that differ in seed and score."""
    return [
        made_run(place / f"{name}-seed{seed}", "--seed", str(seed), *options, scores={10: 9.0, 20: value})
        for seed, value in enumerate(values)
    ]


def table(comparison: Comparison, axis: str = "step") -> Table:
    """The table at equal amounts of something, of the only metric."""
    (board,) = comparison.boards
    return next(table for table in board.tables if axis in table.amounts)


# ------------------------------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize(("few", "many"), [(2, 2), (3, 3), (3, 8), (10, 10)])
def test_of_two_equal_methods_one_looks_better_in_one_case_of_twenty(
    few: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 95 % intervals promise, however few seeds there are."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    random, trials = np.random.default_rng(0), 500
    ties = sum(
        low <= 0 <= high
        for trial in range(trials)
        for low, high in [
            bootstrap.difference(random.normal(size=few).tolist(), random.normal(size=many).tolist(), trial)
        ]
    )
    # 95 % of 500, give or take four standard deviations (0.04), and what the approximation costs at so few
    assert 0.9 < ties / trials < 0.99


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_an_interval_holds_the_true_mean_in_95_of_100_cases(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    random, trials = np.random.default_rng(1), 500
    hits = sum(
        low <= 0 <= high
        for trial in range(trials)
        for low, high in [bootstrap.interval(random.normal(size=count).tolist(), trial)]
    )
    assert 0.9 < hits / trials < 0.98


def test_an_interval_is_a_function_of_its_values() -> None:
    assert bootstrap.interval([1.0, 2.0, 4.0]) == bootstrap.interval([1.0, 2.0, 4.0])
    assert bootstrap.difference([1.0, 2.0], [3.0, 5.0]) == bootstrap.difference([1.0, 2.0], [3.0, 5.0])


def test_values_without_spread_have_an_interval_without_width() -> None:
    assert bootstrap.interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert bootstrap.difference([2.0, 2.0], [1.0, 1.0]) == (1.0, 1.0)


# --------------------------------------------------------------------------------------------------------------- groups


def test_runs_that_differ_in_nothing_but_the_seed_are_one_group(tmp_path: Path) -> None:
    found = compared(*seeds(tmp_path, "vco", (4.0, 5.0, 6.0)), *seeds(tmp_path, "jit", (7.0,), *JIT))
    assert [(group.name, [member.seed for member in group.members]) for group in found.groups] == [
        ("vco", [0, 1, 2]),
        ("jit-seed0", [0]),
    ]


def test_where_a_run_lies_and_how_often_it_was_logged_makes_no_other_group(tmp_path: Path) -> None:
    one = made_run(tmp_path / "here" / "a", scores={20: 4.0})
    two = made_run(tmp_path / "there" / "b", "--seed", "1", "--train.log-every", "7", "--eval.every", "5",
                   scores={20: 5.0})  # fmt: skip
    assert len(compared(one, two).groups) == 1


def test_settings_that_differ_are_named_and_no_others(tmp_path: Path) -> None:
    one = made_run(tmp_path / "a", scores={20: 4.0})
    two = made_run(tmp_path / "b", "--train.learning-rate", "0.5", "--train.workers", "1", scores={20: 4.0})
    assert compared(one, two).differing == {"train.learning_rate": [2e-3, 0.5]}


def test_groups_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    one = made_run(tmp_path / "x" / "run", scores={20: 4.0})
    two = made_run(tmp_path / "y" / "run", *JIT, scores={20: 4.0})
    assert [group.name for group in compared(one, two).groups] == [str(one), str(two)]


# -------------------------------------------------------------------------------------------------------- equal amounts


def test_scores_are_taken_where_both_had_as_much_training(tmp_path: Path) -> None:
    short = made_run(tmp_path / "short", scores={10: 8.0, 20: 7.0}, seconds=1.0)
    long = made_run(tmp_path / "long", *JIT, scores={10: 9.0, 20: 5.0, 40: 3.0}, seconds=0.5, flops=2e6)
    found = compared(short, long)

    def steps(axis: str) -> dict[str, int]:
        return {one.member.name: one.reading.step for row in table(found, axis).rows for one in row.taken}

    assert steps("step") == steps("images") == {"short": 20, "long": 20}
    assert steps("flops") == {"short": 20, "long": 10}  # twice the arithmetic for each image
    assert steps("hours") == {"short": 20, "long": 40}  # half the time for each step
    assert table(found, "images").amounts == {"step": 20, "images": 400}
    assert table(found, "hours").amounts["hours"] == pytest.approx(20 / 3600)


def test_a_score_from_well_before_is_marked(tmp_path: Path, capsys: Capture) -> None:
    one = made_run(tmp_path / "a", scores={30: 8.0})
    two = made_run(tmp_path / "b", *JIT, scores={10: 9.0, 40: 5.0})
    assert main_vco(["compare", str(one), str(two)]) == 0
    assert "Scored well before that amount, so at a disadvantage: b (step 10)" in capsys.readouterr().out


def test_a_run_that_was_scored_too_late_is_not_guessed_at(tmp_path: Path, capsys: Capture) -> None:
    one = made_run(tmp_path / "a", scores={10: 8.0})
    two = made_run(tmp_path / "b", *JIT, scores={40: 5.0})
    assert main_vco(["compare", str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert "Not scored up to that amount: b; see --eval.every" in out
    assert "differ by" not in out


def test_hours_of_different_devices_are_marked(tmp_path: Path, capsys: Capture) -> None:
    one, two = made_run(tmp_path / "a", scores={20: 8.0}), made_run(tmp_path / "b", *JIT, scores={20: 5.0})
    (two / "sessions.jsonl").write_text('{"device": "NVIDIA H200"}\n')
    assert main_vco(["compare", str(one), str(two)]) == 0
    assert "The hours are of different devices: NVIDIA H200, cpu." in capsys.readouterr().out


def test_what_is_not_known_of_all_runs_is_said(tmp_path: Path, capsys: Capture) -> None:
    one = made_run(tmp_path / "a", scores={20: 8.0}, flops=None)
    two = made_run(tmp_path / "b", *JIT, scores={20: 5.0})
    assert main_vco(["compare", str(one), str(two)]) == 0
    assert "not compared at equal training FLOPs: not known of a" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- verdicts


def test_a_difference_below_the_noise_is_a_tie_and_one_above_it_is_not(tmp_path: Path) -> None:
    close = compared(*seeds(tmp_path, "a", (4.0, 5.0, 6.0)), *seeds(tmp_path, "b", (4.5, 5.5, 6.8), *JIT))
    (verdict,) = table(close).verdicts
    assert "a and b tie" in verdict.sentence
    far = compared(*seeds(tmp_path / "far", "a", (4.0, 4.1, 4.2)), *seeds(tmp_path / "far", "b", (8.0, 8.1, 8.2), *JIT))
    (verdict,) = table(far).verdicts
    assert verdict.sentence.startswith("a is better than b by 4 (95 % from 3.")


def test_where_higher_is_better_the_higher_wins(tmp_path: Path) -> None:
    low, high = (
        [made_run(tmp_path / f"{name}{seed}", "--seed", str(seed), *options, metric="IS (x)", higher_is_better=True,
                  scores={20: value + 0.01 * seed}) for seed in range(3)]
        for name, options, value in (("low", (), 1.0), ("high", JIT, 2.0))
    )  # fmt: skip
    (verdict,) = table(compared(*low, *high)).verdicts
    assert verdict.sentence.startswith("high is better than low by 1 ")


def test_of_single_seeds_nothing_is_claimed(tmp_path: Path) -> None:
    found = compared(*seeds(tmp_path, "a", (1.0, 1.1, 1.2)), *seeds(tmp_path, "b", (100.0,), *JIT))
    (verdict,) = table(found).verdicts
    assert verdict.interval is None
    assert "with a single seed nobody can tell" in verdict.sentence


def test_scores_that_were_measured_in_different_ways_are_kept_apart(tmp_path: Path, capsys: Capture) -> None:
    one = made_run(tmp_path / "a", scores={20: 4.0})
    two = made_run(tmp_path / "b", *JIT, scores={20: 1.0}, protocol={**PROTOCOL, "images": 50_000})
    assert main_vco(["compare", str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert "FD (digits-cnn) of a and of b are not compared, because they differ in images: 60 and 50000" in out
    assert "is better" not in out
    assert "differ by" not in out


# ------------------------------------------------------------------------------------------------------- what it writes


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of one configuration, and three of another."""
    place = tmp_path_factory.mktemp("runs")
    return [*seeds(place, "vco", (4.0, 4.5, 4.2)), *seeds(place, "jit", (7.0, 7.7, 8.2), *JIT)]


def test_the_page_holds_tables_curves_samples_and_settings(runs: list[Path], tmp_path: Path) -> None:
    assert main_vco(["compare", *map(str, runs), "--out", str(tmp_path / "c.html")]) == 0
    page = (tmp_path / "c.html").read_text()
    for part in ("vco is better than jit by 3.", "FD (digits-cnn) over step", "image loss over hours of training",
                 "Training images", "vco, seed 0, after step 20", "jit-dual", "backbone.name", "vco-seed2",
                 "1,000" if "1,000" in page else "1k"):  # fmt: skip
        assert part in page
    assert page.count("<svg") >= 6
    assert "http" not in page.replace("http://www.w3.org/", "")


def test_the_other_formats_hold_the_same_numbers(runs: list[Path], tmp_path: Path) -> None:
    for ending in ("md", "json", "csv"):
        assert main_vco(["compare", *map(str, runs), "--out", str(tmp_path / f"c.{ending}")]) == 0
    assert "| vco | 4.233 |" in (tmp_path / "c.md").read_text()
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["tables"][0]["rows"][0]["values"] == [4.0, 4.5, 4.2]
    assert found["groups"]["jit"] == [str(path) for path in runs[3:]]
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows if row["step"] == "20.0"] == ["4.0", "4.5", "4.2", "7.0", "7.7", "8.2"]


def test_the_terminal_shows_the_settings_that_all_have_and_counts_the_rest(runs: list[Path], capsys: Capture) -> None:
    assert main_vco(["compare", *map(str, runs)]) == 0
    out = capsys.readouterr().out
    assert "adapter.name" in out
    assert "adapter.ortho" not in out
    assert "options of components that not all of them have" in out


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda a, b: [a], "a comparison needs two different runs or more: vco compare RUN RUN"),
        (lambda a, b: [a, a], "a comparison needs two different runs or more: "),
        (lambda a, b: [a, b.parent], "is not the folder of a run: it has no config.yaml"),
        (lambda a, b: [a, b.parent / "nothing"], "is not the folder of a run: it has no config.yaml"),
        (lambda a, b: [a, without_settings(b)], "is not the folder of a run: it has no config.yaml"),
        (lambda a, b: [], "the following arguments are required: RUN (`vco compare --help`"),
        (lambda a, b: [a, b, "--ou", "c.md"], "unrecognized arguments: --ou"),
        (lambda a, b: [a, b, "--out", "c.pdf"], "ends with none of .html, .md, .json, .csv"),
        (lambda a, b: [a, b, "--out", "no/such/c.md"], "there is no folder no/such"),
    ],
)
def test_mistakes_are_told_in_a_sentence(make, sentence: str, tmp_path: Path, capsys: Capture) -> None:
    a, b = made_run(tmp_path / "a", scores={20: 4.0}), made_run(tmp_path / "b", *JIT, scores={20: 4.0})
    assert main_vco(["compare", *map(str, make(a, b))]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_a_run_without_a_score_is_named(tmp_path: Path, capsys: Capture) -> None:
    a, b = made_run(tmp_path / "a", scores={20: 4.0}), made_run(tmp_path / "b", *JIT, scores={})
    assert main_vco(["compare", str(a), str(b)]) == 2
    assert f"the run in {b} has no score to compare" in capsys.readouterr().err


def test_a_copy_of_a_run_is_no_second_seed_and_is_left_out(tmp_path: Path, capsys: Capture) -> None:
    a, b = (made_run(tmp_path / name, scores={20: 4.0}) for name in "ab")
    other = made_run(tmp_path / "c", *JIT, scores={20: 5.0})
    said = f"{b} is left out: it has the settings and the seed 0 of {a}, so it is no second seed"
    assert main_vco(["compare", str(a), str(b)]) == 2
    assert capsys.readouterr().err == f"vco compare: a comparison needs two different runs or more: {said}\n"
    for ending in ("html", "md", "json"):
        assert main_vco(["compare", *map(str, (a, b, other, a)), "--out", str(tmp_path / f"c.{ending}")]) == 0
        assert said in (tmp_path / f"c.{ending}").read_text()
    out = capsys.readouterr().out
    assert said in out
    assert f"{a} is named twice, and counts once" in out
    assert [[member.name for member in group.members] for group in compared(a, b, other).groups] == [["a"], ["c"]]


def test_of_twins_the_one_that_was_trained_for_longest_is_kept(tmp_path: Path) -> None:
    short, long = (made_run(tmp_path / str(steps), scores={10: 5.0, steps: 4.0}) for steps in (20, 40))
    found = compared(short, long, made_run(tmp_path / "c", *JIT, scores={20: 5.0}))
    assert [member.name for member in found.members] == ["40", "c"]
    assert found.left_out[0].startswith(f"{short} is left out")


def test_runs_of_different_lengths_are_one_group_at_equal_steps(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / f"{seed}", "--seed", str(seed), scores={20: 4.0 + seed, 20 * seed: 4.0 + seed})
        for seed in (1, 2)
    ]
    found = compared(*runs)
    (group,) = found.groups
    assert [member.seed for member in group.members] == [1, 2]
    (row,) = table(found).rows
    assert [one.reading.step for one in row.taken] == [20, 20]
    assert found.differing == {}


def test_under_a_falling_rate_another_length_is_another_configuration(tmp_path: Path) -> None:
    more = ("--train.schedule", "cosine")
    runs = [made_run(tmp_path / f"{n}", "--seed", str(n), *more, scores={20 * n: 4.0}) for n in (1, 2)]
    assert compared(*runs).differing == {"train.steps": [20, 40]}


def test_runs_with_other_weights_of_an_encoder_are_no_seeds_of_one_configuration(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, "--seed", str(n), scores={30: 1.0}) for n, name in enumerate(("known", "random"))]
    assert len(compare(runs, load_catalog()).groups) == 1
    for run, digest in zip(runs, ("a" * 64, "b" * 64), strict=True):
        with_facts(run, contents={"data": "same", "features.timm": digest})
    assert len(compare(runs, load_catalog()).groups) == 2
