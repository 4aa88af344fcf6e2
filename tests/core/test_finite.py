"""Gradients that are not finite: the run stops, leaves the step out, or goes back and on with other batches."""

from pathlib import Path

import pytest
import tiny
import torch

from vco.cli import main_run
from vco.storage import checkpoint
from vco.training.finite import MOST

Capture = pytest.CaptureFixture[str]
SPOILT = ("--plugin", "odd_plugin", "--loss", "nan-once", "--metric", "none", "--train.checkpoint-every", "2")


def finite(folder: Path, step: int = tiny.STEPS) -> bool:
    return all(value.isfinite().all() for value in tiny.tensors(folder, step).values() if value.is_floating_point())


def test_a_step_can_be_left_out(tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path, *SPOILT, "--train.on-nan", "skip")) == 0
    assert finite(tmp_path)
    lines = {line["step"]: line for line in tiny.metrics(tmp_path)}
    assert [lines[step].get("skipped_steps") for step in (3, 5, 6)] == [0.0, 1.0, 1.0]
    assert "loss" not in lines[4]


def test_a_step_that_is_left_out_changes_nothing(tmp_path: Path) -> None:
    training = tiny.prepare(
        tmp_path, *SPOILT, "--loss.nan-once.at", "0", "--train.on-nan", "skip", "--train.steps", "1"
    )
    before = {name: value.clone() for name, value in training.objective.state_dict().items()}
    averages = [{name: value.clone() for name, value in average.items()} for average in training.ema.averages]
    assert training.train() == 0
    tiny.assert_same(dict(training.objective.state_dict()), before)
    for average, was in zip(training.ema.averages, averages, strict=True):
        tiny.assert_same(average, was)
    assert not training.optimizer.state


def test_a_run_can_go_back_and_on_with_other_batches(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, *SPOILT, "--train.on-nan", "rollback")) == 0
    assert finite(tmp_path)
    said = capsys.readouterr()
    assert "back to step 2, and on with other batches" in said.err + said.out
    newest = checkpoint.load_newest(tmp_path / "checkpoints", pytest.fail)
    assert newest is not None
    assert (newest.step, newest.state["ahead"]) == (tiny.STEPS, 2)  # batches 2 and 3 were passed over
    lines = tiny.metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["returns"] == 1.0


def test_a_run_that_went_back_goes_on_the_same_after_a_stop(tmp_path: Path) -> None:
    options = (*SPOILT, "--train.on-nan", "rollback")
    assert main_run(tiny.argv(tmp_path / "whole", *options)) == 0
    assert main_run(tiny.argv(tmp_path / "stopped", *options, "--train.steps", "4")) == 0
    assert main_run(tiny.argv(tmp_path / "stopped", *options)) == 0
    tiny.assert_same(tiny.tensors(tmp_path / "stopped"), tiny.tensors(tmp_path / "whole"))


def test_the_policy_may_be_set_once_the_run_has_stopped(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, *SPOILT)) == 1
    assert "Add --train.on-nan skip (or rollback) to the same command" in capsys.readouterr().err
    assert main_run(tiny.argv(tmp_path, *SPOILT)) == 1  # the same command meets it again
    assert main_run([str(tmp_path), "--plugin", "odd_plugin", "--train.on-nan", "skip"]) == 0
    assert finite(tmp_path)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_what_never_ends_stops_all_the_same(policy: str, tmp_path: Path, capsys: Capture) -> None:
    options = ("--plugin", "odd_plugin", "--loss", "nan-later", "--loss.nan-later.after", "3", "--metric", "none")
    more = ("--train.on-nan", policy, "--train.steps", "60", "--train.checkpoint-every", "2")
    assert main_run(tiny.argv(tmp_path, *options, *more)) == 1
    assert (
        f"after {'20 steps in a row' if policy == 'skip' else 'the run went back 20 times'}" in capsys.readouterr().err
    )
    assert MOST == 20


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path, capsys: Capture) -> None:
    options = (*SPOILT, "--train.checkpoint-every", "50", "--train.on-nan", "rollback")
    assert main_run(tiny.argv(tmp_path, *options)) == 1
    assert (
        "the gradient of step 4 has NaN or infinity, and there is no checkpoint to go back" in capsys.readouterr().err
    )


# ------------------------------------------------------------------------------------------- images that cannot be read


@pytest.mark.parametrize("accumulation", ["1", "2"])
def test_the_steps_before_an_image_that_cannot_be_read_are_saved(
    tmp_path: Path, capsys: Capture, accumulation: str
) -> None:
    options = (
        "--plugin",
        "odd_plugin",
        "--data",
        "spoilt",
        *tiny.ONE_STREAM,
        "--metric",
        "none",
        "--train.batch-size",
        "4",
        "--train.accumulation",
        accumulation,
    )
    status = main_run(tiny.argv(tmp_path, *options, "--train.samples-per-class", "0", "--train.steps", "40"))
    assert status == 2
    assert "image 17 cannot be read; replace it" in capsys.readouterr().err
    newest = checkpoint.load_newest(tmp_path / "checkpoints", pytest.fail)
    steps = [line["step"] for line in tiny.metrics(tmp_path)]
    assert newest is not None
    assert newest.step == steps[-1] > 0


def test_images_that_are_skipped_are_listed_once(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    spoilt = tmp_path / "images" / "cat" / "3.png"
    spoilt.write_bytes(b"no image")
    data = ("--data", "image-folder", "--data.root", str(tmp_path / "images"), "--data.on-bad", "skip")
    sizes = ("--train.batch-size", "8", "--train.samples-per-class", "0", "--train.steps", "12", "--metric", "none")
    assert main_run(tiny.argv(tmp_path / "run", *tiny.ONE_STREAM, *data, *sizes)) == 0
    (line,) = (tmp_path / "run" / "bad-images.txt").read_text().splitlines()
    assert str(spoilt) in line
    assert torch.isfinite(torch.tensor(tiny.metrics(tmp_path / "run")[-1]["loss"]))
