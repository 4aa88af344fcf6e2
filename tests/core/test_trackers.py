"""Trackers: what TensorBoard is told can be read back, and is there once after a resume."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from vco.cli import main_run
from vco.training import trackers

EVERY = ("--train.checkpoint-every", "2", "--train.keep-checkpoints", "9", "--train.sample-every", "3")


def events(folder: Path) -> Any:
    """What TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that TensorBoard has followed."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    assert main_run(tiny.argv(folder, *EVERY, "--eval.every", "3", "--log-with", "tensorboard")) == 0
    return folder


def test_losses_samples_scores_and_settings_arrive(tracked: Path) -> None:
    found = events(tracked)
    logged = tiny.metrics(tracked)
    assert [event.step for event in found.Scalars("loss")] == [line["step"] for line in logged]
    assert [event.value for event in found.Scalars("loss")] == pytest.approx([line["loss"] for line in logged])
    assert {"seconds/data", "images_per_second", "gradient_norm", "loss_at/image.0-20"} & set(found.Tags()["scalars"])
    assert [event.step for event in found.Images("samples")] == [0, 3, 6]
    assert found.Images("samples")[0].encoded_image_string.startswith(b"\x89PNG")
    assert [event.step for event in found.Scalars("score/FD (digits-cnn)")] == [3, 6]
    assert b"backbone" in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_a_resume_goes_on_where_it_was_and_repeats_nothing(tracked: Path, tmp_path: Path) -> None:
    shutil.copytree(tracked, tmp_path / "run")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    assert main_run(tiny.argv(tmp_path / "run", *EVERY, "--eval.every", "3", "--log-with", "tensorboard")) == 0
    found = events(tmp_path / "run")
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in found.Images("samples")] == [0, 3, 6]
    assert [event.step for event in found.Scalars("score/FD (digits-cnn)")] == [3, 6]


def test_trackers_change_no_bit_and_are_no_other_run(tracked: Path, tmp_path: Path) -> None:
    options = ("--metric", "none")
    assert main_run(tiny.argv(tmp_path / "run", *options)) == 0
    assert tiny.losses(tmp_path / "run") == tiny.losses(tracked)
    assert main_run(tiny.argv(tmp_path / "run", *options, "--train.steps", "7", "--log-with", "tensorboard")) == 0
    assert [event.step for event in events(tmp_path / "run").Scalars("loss")] == [7]


def test_a_library_that_is_missing_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    assert main_run(tiny.argv(tmp_path / "run", "--log-with", "wandb")) == 2
    error = capsys.readouterr().err
    assert "--log-with wandb needs the package wandb: pip install wandb, or 'vco[trackers]'" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_start_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: object) -> None:
        raise PermissionError("not logged in")

    monkeypatch.setattr(trackers.TensorBoardTracker, "start", refused)
    assert main_run(tiny.argv(tmp_path / "run", "--log-with", "tensorboard")) == 2
    error = capsys.readouterr().err
    assert "--log-with tensorboard: a tracker does not start (PermissionError: not logged in)" in error


def test_an_unknown_tracker_is_a_sentence_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run(tiny.argv(tmp_path / "run", "--log-with", "tensorbored")) == 2
    assert "log_with: expected tensorboard|wandb, got 'tensorbored'" in capsys.readouterr().err


def test_without_trackers_their_libraries_are_not_even_loaded() -> None:
    code = "import sys, vco.job; assert not {'tensorboard', 'wandb'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
