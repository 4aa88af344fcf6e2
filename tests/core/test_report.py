"""report.html: what it shows of a run in any state, that nothing of it comes from elsewhere, and what it costs."""

import json
import time
from pathlib import Path

import pytest
import tiny
from html_pages import Page
from made_runs import add_score, made_run, with_facts
from PIL import Image

from vco.cli import main_run
from vco.errors import TrainingStoppedError
from vco.folder import RunFolder
from vco.objective import Objective
from vco.reporting import live, panels
from vco.reporting.curves import Chart, Line, short, thinned
from vco.reporting.live import LiveReport
from vco.reporting.pictures import embed
from vco.reporting.report import write_report
from vco.reporting.scores import read_scores


def page_of(folder: Path, state: str = "") -> Page:
    write_report(RunFolder(folder), state)
    return Page(folder / "report.html")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that `vco-run` has finished."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main_run(tiny.argv(folder, "--eval.every", "2", "--train.sample-every", "2")) == 0
    return folder


# -------------------------------------------------------------------------------------------------------- what it shows


def test_a_finished_run_shows_score_and_loss_first_and_then_all_the_rest(trained: Path) -> None:
    page = Page(trained / "report.html")
    assert page.headings == [
        "Score and loss", "Samples", "From noise to samples", "Loss by noise level", "Feature streams", "Pace", "Cost",
        "Model", "Environment", "Settings",
    ]  # fmt: skip
    score = json.loads((trained / "eval.json").read_text())["value"]
    for text in (f"{score:.3f}", "Trained for 6 steps.", "FD-20 (digits-cnn) over steps", "features: effective rank",
                 "120 (6 steps of 20)", "floating-point operations per image", "processes 1", "features.digits-vit",
                 "learning_rate: ", "Training images of the same classes"):  # fmt: skip
        assert text in page.words, text
    assert len([value for value in page.values("src") if value.startswith("data:image/png")]) == 6  # 4 grids, real, way


def test_nothing_on_it_comes_from_elsewhere(trained: Path) -> None:
    page = Page(trained / "report.html")
    assert all(value.startswith("data:image/") for value in page.values("src"))
    assert all(value.startswith("#") for name in ("href", "xlink:href") for value in page.values(name))
    text = (trained / "report.html").read_text()
    assert "<script" not in text
    assert "@import" not in text
    assert "url(http" not in text


def test_no_two_elements_have_one_name(trained: Path) -> None:
    names = Page(trained / "report.html").values("id")
    assert len(names) == len(set(names)) > 10


def test_it_fits_a_phone_and_a_dark_room(trained: Path) -> None:
    page, text = Page(trained / "report.html"), (trained / "report.html").read_text()
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    assert "prefers-color-scheme: dark" in text
    colors = [value for name in ("style", "fill", "stroke") for value in page.values(name)]
    assert [value for value in colors if "#" in value.replace("url(#", "")] == []  # curves have the colors of the page


def test_a_run_without_score_says_so(tmp_path: Path) -> None:
    assert "Not evaluated." in page_of(made_run(tmp_path / "run", scores={})).words


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    assert "Trained for 0 steps." in page_of(tmp_path).words


def test_damaged_files_are_left_out(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", scores={20: 4.0})
    for name in ("cost.json", "sessions.jsonl", "eval.json", "facts.yaml", "evals.jsonl", "config.yaml"):
        (run / name).write_text('{"a": [1, "')
    (run / "samples" / "real.png").write_bytes(b"\x89PNG no")
    assert "Trained for 20 steps." in page_of(run).words


def test_scores_are_drawn_over_steps_and_over_scales_each_among_their_like(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", scores={10: 9.0, 20: 4.0})
    alone = page_of(run).words
    assert "over steps" in alone
    assert "over guidance scale" not in alone
    add_score(run, 20, 3.0, scale=2.0)
    add_score(run, 20, 3.5, scale=3.0, solver={"name": "euler"})  # another way of sampling
    add_score(run, 10, 7.0, scale=3.0)  # another step
    page = page_of(run)
    assert "FD (digits-cnn) over guidance scale" in page.words
    assert "After step 20" in page.words
    swept = next(
        chart for chart in panels.scores(read_scores(RunFolder(run)), RunFolder(run)) if "scale" in chart.across
    )
    assert (swept.lines[0].xs, swept.lines[0].ys) == ([1.5, 2.0], [4.0, 3.0])


def test_class_names_stand_above_the_columns_and_cannot_break_the_page(tmp_path: Path) -> None:
    names = ("<b>bold</b>", '"quoted"', "a & b", *map(str, range(7)))
    page = page_of(made_run(tmp_path / "run", scores={20: 4.0}, names=names))
    assert 'Columns: <b>bold</b>, "quoted", a & b, 0, 1' in page.words
    assert "<b>bold</b>" in page.values("title")


def test_of_many_classes_those_of_the_grid_are_named(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", scores={20: 4.0})
    with_facts(run, num_classes=1000, class_names=tuple(f"c{n}" for n in range(1000)))
    assert [name for name in page_of(run).values("title") if name.startswith("c")][:3] == ["c0", "c100", "c200"]


def test_a_page_stays_small_however_large_the_samples_are(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.samples.mkdir()
    Image.effect_noise((2600, 1100), 90).save(folder.grid(5))
    shown = embed(folder.grid(5))
    assert shown is not None
    assert (shown.width, shown.large) == (1600, True)
    assert len(shown.data) < folder.grid(5).stat().st_size / 2


def test_it_shows_six_of_many_sample_grids_and_the_last_of_them(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", scores={20: 4.0})
    for step in range(1, 20):
        Image.new("L", (8, 8)).save(RunFolder(run).grid(step))
    shown = [value for value in page_of(run).values("alt") if value.startswith("samples after")]
    assert shown[0] == "samples after step 20"
    assert len(shown) == 6


# ----------------------------------------------------------------------------------------------------- while it goes on


def test_it_is_there_from_the_first_line_of_the_log_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []
    monkeypatch.setattr(live, "write_report", lambda folder, state: states.append(state))
    monkeypatch.setattr(live, "SHARE", 1e9)  # as often as there is something new
    assert main_run(tiny.argv(tmp_path / "run", "--train.log-every", "2")) == 0
    assert states == ["training, after step 2 of 6", "training, after step 4 of 6"]


def test_it_takes_a_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [1000.0], list[float]()

    def write(folder: RunFolder, state: str) -> None:
        written.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr(live, "write_report", write)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    report = LiveReport(RunFolder(tmp_path))
    while now[0] < 2000.0:
        report.update("training")
        now[0] += 1.0
    assert written[0] == 1000.0
    assert 0.5 * len(written) <= 0.011 * 1000
    assert len(written) > 15


def test_a_run_that_failed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Objective.forward

    def broken(self: Objective, *args: object) -> object:
        losses = forward(self, *args)  # pyright: ignore[reportArgumentType]
        return {name: value * float("nan") for name, value in losses.items()}

    training = tiny.prepare(tmp_path)
    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(TrainingStoppedError):
        training.train(LiveReport(training.folder))
    page = Page(tmp_path / "report.html")
    assert "ended by an error: training stopped: " in page.words
    assert ("p", "class", "failed") in page.attributes


def test_a_run_that_was_stopped_says_after_which_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vco.training.stopping import StopFlag

    asked = iter([0, 0, 0, 15])  # once before the first step
    monkeypatch.setattr(StopFlag, "agreed", lambda self, *reasons: next(asked))
    training = tiny.prepare(tmp_path)
    assert training.train(LiveReport(training.folder)) == 15
    assert "stopped by a signal after step 2 of 6" in Page(tmp_path / "report.html").words


def test_a_page_that_cannot_be_written_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(folder: RunFolder, state: str) -> None:
        raise ZeroDivisionError("odd numbers")

    monkeypatch.setattr(live, "write_report", broken)
    training = tiny.prepare(tmp_path)
    assert training.train(LiveReport(training.folder)) == 0
    assert "report.html could not be written: ZeroDivisionError: odd numbers" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- curves


def test_a_long_curve_keeps_its_means_and_its_last_point() -> None:
    xs, ys = thinned(list(range(10_001)), [float(x % 2) for x in range(10_001)], points=101)
    assert len(xs) <= 101
    assert xs[-1] == 10_000
    assert all(abs(y - 0.5) < 0.02 for y in ys[:-1])


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [-1.0, 1e30], [1e-30, 1e30], [2.0, 2.0 + 1e-9]])
def test_curves_of_any_numbers_can_be_drawn(values: list[float]) -> None:
    svg = Chart("odd <b>", [Line("a", list(range(len(values))), values)], level=("level", 1.0)).svg()
    assert svg.startswith("<svg")
    assert 'aria-label="odd &lt;b&gt; over step"' in svg


def test_numbers_are_written_short() -> None:
    numbers = [0, 0.05, 1, 999, 1500, 123_456, 2e6, 2.5e15, -3000, 1e-7]
    assert [short(n) for n in numbers] == ["0", "0.05", "1", "999", "1.5k", "123.5k", "2M", "2.5e15", "-3k", "1e-07"]
