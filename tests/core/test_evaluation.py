"""Scores: during training and after it, by one metric or several, with encoders or without."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from vco.api import ImageSet
from vco.cli import main_run
from vco.evaluation.evaluate import Evaluation
from vco_plugins.features.digits_cnn import DigitsCNN

Capture = pytest.CaptureFixture[str]
EVERY_STEP = ("--train.checkpoint-every", "1", "--train.keep-checkpoints", "10")
MOVES = (
    "--train.ema-decays",
    "0.1",
    "--train.learning-rate",
    "0.02",
    "--train.warmup-steps",
    "0",
    "--sample.steps",
    "3",
)
"""Options with which six steps show in the samples of the average."""
OFTEN = (*MOVES, "--eval.every", "2")
SEVERAL = ("--plugin", "toy_plugin", "--metric", "fd=digits-cnn,fd=digits-vit,brightness")


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was scored every second step."""
    folder = tmp_path_factory.mktemp("often")
    tiny.train(folder, *EVERY_STEP, *OFTEN)
    return folder


def scores(folder: Path) -> dict[int, float]:
    """Step -> the first score, of those measured during training."""
    return {line["step"]: line["value"] for line in tiny.lines(folder / "evals.jsonl")}


# ------------------------------------------------------------------------------------------------------ during training


def test_a_run_is_scored_as_often_as_it_is_asked_to_but_not_twice_at_its_end(often: Path) -> None:
    lines = tiny.lines(often / "evals.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    assert {line["metric"] for line in lines} == {"FD (digits-cnn)"}
    assert all(0 < line["real_value"] < line["value"] for line in lines)
    assert lines[0]["value"] != lines[1]["value"]


def test_without_being_asked_a_run_is_not_scored_while_it_trains(tmp_path: Path) -> None:
    tiny.train(tmp_path, "--train.steps", "2")
    assert not (tmp_path / "evals.jsonl").exists()


def test_a_score_during_training_is_that_of_a_run_that_ends_there(often: Path, tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path, *MOVES, "--train.steps", "2")) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["value"] == scores(often)[2]


def test_scoring_in_between_changes_no_bit_of_the_training(often: Path, tmp_path: Path) -> None:
    tiny.train(tmp_path, *MOVES)
    tiny.assert_same(tiny.tensors(often), tiny.tensors(tmp_path))
    assert tiny.losses(often) == tiny.losses(tmp_path)


@pytest.mark.parametrize("step", [3, 4])
def test_after_a_resume_every_score_is_there_once(step: int, often: Path, tmp_path: Path) -> None:
    name = f"checkpoints/step-{step:08d}"
    shutil.copytree(often / name, tmp_path / name)
    cut_short = '{"step": 6, "val'
    (tmp_path / "evals.jsonl").write_text((often / "evals.jsonl").read_text() + cut_short)
    tiny.train(tmp_path, *OFTEN)
    there, before = (tiny.lines(folder / "evals.jsonl") for folder in (tmp_path, often))
    assert [line | {"time": ""} for line in there] == [line | {"time": ""} for line in before]


def test_scores_during_training_may_be_asked_for_later(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.steps", "2")) == 0
    assert main_run(tiny.argv(tmp_path, "--train.steps", "4", "--eval.every", "1")) == 0
    lines = tiny.lines(tmp_path / "evals.jsonl")
    assert [(line["step"], line["by"]) for line in lines] == [(2, "vco-run"), (3, "training"), (4, "vco-run")]
    assert "step 3: FD (digits-cnn) " in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ several metrics


def test_every_metric_gives_a_score_and_the_first_one_stands_at_the_top(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, *SEVERAL, "--train.steps", "1")) == 0
    found = json.loads((tmp_path / "eval.json").read_text())
    assert [score["metric"] for score in found["scores"]] == ["FD (digits-cnn)", "FD (digits-vit)", "brightness"]
    assert (found["metric"], found["value"]) == ("FD (digits-cnn)", found["scores"][0]["value"])
    assert found["scores"][0]["value"] != found["scores"][1]["value"]
    assert found["scores"][2]["images"] == found["samples"] == 20
    last = capsys.readouterr().out.splitlines()[-1]
    assert all(f"{name} " in last for name in ("FD (digits-cnn)", "FD (digits-vit)", "brightness"))


def test_a_metric_is_shown_the_held_out_images_and_then_generated_or_training_images(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path, "--plugin", "toy_plugin", "--metric", "brightness")
    (result,) = Evaluation(training.run, training.accelerator).score(training.averaged())
    test, train = training.run.data.test(), training.run.data.train()

    def brightness(images: list[int], of: ImageSet) -> float:
        return torch.stack([of.image(i, None).double().mean() for i in images]).mean().item()

    real = brightness(list(range(len(test))), test)
    assert result.real_value is not None
    every = [brightness([i], train) for i in range(len(train))]
    assert min(every) < result.real_value + real < max(every)
    assert result.score.protocol == {"images": 20}
    assert result.score.value != result.real_value


def test_metrics_whose_encoders_are_equal_have_it_look_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    forward = DigitsCNN.forward

    def noted(self: DigitsCNN, images: torch.Tensor) -> object:
        looked.append(len(images))
        return forward(self, images)

    training = tiny.prepare(tmp_path, *SEVERAL, "--features", "digits-cnn")
    monkeypatch.setattr(DigitsCNN, "forward", noted)
    evaluation = Evaluation(training.run, training.accelerator)
    evaluation.score(training.averaged())
    first = sum(looked)
    assert first == len(training.run.data.test()) + 20 + 20  # held out, training and generated images
    evaluation.score(training.averaged())
    assert sum(looked) == first + 20  # real images are read once


def test_the_score_does_not_depend_on_the_batch_size_of_sampling(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path / "one")
    other = tiny.prepare(tmp_path / "two", "--sample.batch-size", "7")
    one, two = (Evaluation(t.run, t.accelerator).score(t.averaged())[0] for t in (training, other))
    assert two.score.value == pytest.approx(one.score.value, rel=1e-4)  # float32 features in other batches
    assert two.real_value == pytest.approx(one.real_value, rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ no metric


def test_a_run_need_not_be_scored_at_all(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, "--metric", "none", "--train.steps", "1", "--eval.every", "1")) == 0
    assert "not scored (--metric none)" in capsys.readouterr().out
    assert not (tmp_path / "eval.json").exists()
    assert not (tmp_path / "evals.jsonl").exists()
    assert "Not evaluated." in (tmp_path / "report.html").read_text()


def test_another_metric_may_be_asked_for_after_training(tmp_path: Path) -> None:
    argv = tiny.argv(tmp_path, "--plugin", "toy_plugin", "--train.steps", "1")
    assert main_run(argv) == 0
    assert main_run([*argv, "--refresh", "--metric", "brightness"]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["metric"] == "brightness"
    assert main_run([*argv, "--refresh", "--metric", "none"]) == 0
    assert not (tmp_path / "eval.json").exists()
