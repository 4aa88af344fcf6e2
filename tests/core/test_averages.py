"""An average of the weights that is still mostly what training began with: whoever samples or scores it is told."""

import json
from pathlib import Path

import finished
import pytest
import tiny
import torch

import vco
from vco.cli import main_run, main_vco
from vco.folder import RunFolder
from vco.reporting.report import write_report
from vco.sampling.averages import young_average
from vco.training.ema import EMA

Capture = pytest.CaptureFixture[str]
YOUNG = "94% of the average of the weights (decay 0.99) is still the weights that training began with"


@pytest.mark.parametrize(("decay", "steps"), [(0.9999, 400), (0.99, 6), (0.9, 1)])
def test_the_share_is_what_an_average_has_kept_of_its_beginning(decay: float, steps: int) -> None:
    module = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    module.weight.fill_(1.0)
    average = EMA(module, [decay])
    module.weight.fill_(0.0)
    for _ in range(steps):
        average.update()
    kept = float(average.averages[0]["weight"])
    assert f"after {steps:,} steps {kept:.0%} of the average" in young_average(decay, steps)


@pytest.mark.parametrize(("decay", "steps"), [(0.9999, 25_000), (0.99, 800), (0.0, 1), (None, 1)])
def test_of_an_average_that_has_gone_far_enough_nothing_is_said(decay: float | None, steps: int) -> None:
    assert young_average(decay, steps) == ""


@pytest.mark.parametrize(("steps", "proposed"), [(400, "0.99"), (20_000, "0.999"), (30, "0.9"), (5, "0.5")])
def test_a_decay_is_proposed_that_suits_the_steps(steps: int, proposed: str) -> None:
    said = young_average(0.9999, steps)
    assert said.endswith(f"with --ema none, and --train.ema-decays {proposed} suits so few steps")
    assert young_average(float(proposed), steps) == ""


def test_where_none_would_suit_none_is_proposed() -> None:
    assert young_average(0.9, 1).endswith("take the last weights with --ema none")


def test_a_run_says_it_at_its_end_and_in_its_report(tmp_path: Path, capsys: Capture) -> None:
    for metric in ("fd=digits-cnn", "none"):
        assert main_run(tiny.argv(tmp_path / metric, "--metric", metric)) == 0
        plan, _, rest = capsys.readouterr().out.partition("\nstep ")
        assert f"note  after 6 steps {YOUNG}" in plan  # before anything is trained in vain
        assert rest.count(f"note: after 6 steps {YOUNG}") == 1
        assert f"After 6 steps {YOUNG}" in (tmp_path / metric / "report.html").read_text()
    write_report(RunFolder(tmp_path / "none"), "training, after step 6 of 100")
    assert YOUNG not in (tmp_path / "none" / "report.html").read_text()
    assert YOUNG in json.loads((tmp_path / "fd=digits-cnn" / "eval.json").read_text())["notes"][0]


def test_samples_and_scores_of_the_average_say_it_and_those_of_the_last_weights_do_not(
    tmp_path: Path, capsys: Capture
) -> None:
    run = finished.finish(tmp_path / "run").folder.path
    young = "after 2 steps 98% of the average"
    for number, (ema, told) in enumerate((("0", True), ("none", False))):
        assert main_vco(["sample", str(run), "--num", "2", "--ema", ema, "--out", str(tmp_path / ema)]) == 0
        assert (young in capsys.readouterr().out) == told
        assert main_vco(["eval", str(run), "--num", "12", "--ema", ema]) == 0
        assert (young in capsys.readouterr().out) == told
        (*_, line) = tiny.lines(run / "evals.jsonl")
        assert len(tiny.lines(run / "evals.jsonl")) == number + 1
        assert any(young in note for note in line["notes"]) == told


def test_of_weights_whose_steps_nobody_knows_nothing_is_said(tmp_path: Path) -> None:
    run = finished.finish(tmp_path / "run").folder.path
    opened = vco.open_run(run)
    assert opened.young_average
    again = vco.open_run(run)
    again.__dict__["_checkpoint"] = opened._checkpoint
    opened._checkpoint.state["published"] = {}  # pyright: ignore[reportIndexIssue]
    assert again.young_average == ""
