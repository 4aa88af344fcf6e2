"""evals.jsonl: lines are added, and only what training will write again is dropped."""

from pathlib import Path

from vco.evaluation import records


def steps(path: Path) -> list[tuple[object, object]]:
    return [(record["by"], record["step"]) for record in records.read(path)]


def filled(path: Path) -> Path:
    for by, step in ((records.TRAINING, 2), (records.TRAINING, 4), (records.RUN, 6), (records.EVAL, 4)):
        records.append(path, {"step": step, "value": 1.0, "key": f"{by} {step}"}, by)
    return path


def test_lines_are_added_with_who_measured_and_when(tmp_path: Path) -> None:
    path = filled(tmp_path / "evals.jsonl")
    assert steps(path) == [("training", 2), ("training", 4), ("vco-run", 6), ("vco eval", 4)]
    assert all(record["time"].startswith("20") for record in records.read(path))


def test_a_line_that_a_kill_has_cut_short_spoils_neither_the_next_nor_the_others(tmp_path: Path) -> None:
    path = filled(tmp_path / "evals.jsonl")
    with path.open("a") as file:
        file.write('{"step": 8, "val')
    records.append(path, {"step": 9, "value": 2.0}, records.EVAL)
    assert [step for _, step in steps(path)] == [2, 4, 6, 4, 9]


def test_training_forgets_its_own_later_lines_and_no_others(tmp_path: Path) -> None:
    path = filled(tmp_path / "evals.jsonl")
    records.forget_after(path, 3)
    assert steps(path) == [("training", 2), ("vco-run", 6), ("vco eval", 4)]
    records.forget_after(tmp_path / "absent.jsonl", 3)
    assert not (tmp_path / "absent.jsonl").exists()


def test_lines_of_before_who_measured_was_noted_are_trainings(tmp_path: Path) -> None:
    path = tmp_path / "evals.jsonl"
    path.write_text('{"step": 2, "value": 1.0}\n{"step": 4, "value": 1.0}\n')
    records.forget_after(path, 3)
    assert [record["step"] for record in records.read(path)] == [2]


def test_what_was_measured_before_is_found_by_its_key(tmp_path: Path) -> None:
    path = filled(tmp_path / "evals.jsonl")
    found = records.find(path, "vco-run 6")
    assert found is not None
    assert found["step"] == 6
    assert records.find(path, "nothing") is None
    assert records.find(tmp_path / "absent.jsonl", "nothing") is None
