"""`vco-run RUN`: a run goes on wherever its folder and its data lie, and with nothing but what it was trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml
from PIL import Image

import vco
from vco.cli import main_run
from vco.config.command_line import parse

Capture = pytest.CaptureFixture[str]
CLASSES = ("circle", "square")
PER_CLASS = 6


def write_images(root: Path, seed: int = 0) -> Path:
    """A folder of tiny photographs, as image-folder reads it."""
    draws = np.random.default_rng(seed)
    for split in ("train", "val"):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(PER_CLASS):
                pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def options(root: Path, folder: Path) -> list[str]:
    data = ["--data", "image-folder", "--data.root", str(root), "--data.size", "8", "--data.classes", "2"]
    sizes = ["--train.steps", "4", "--train.checkpoint-every", "2", "--metric", "none", "--train.batch-size", "4"]
    return tiny.argv(folder, *tiny.ONE_STREAM, *data, *sizes, "--train.samples-per-class", "0")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def said(capsys: Capture) -> str:
    return capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- another place


def test_a_run_goes_on_bit_by_bit_where_folder_and_data_were_moved(images: Path, tmp_path: Path) -> None:
    assert main_run(options(images, tmp_path / "whole")) == 0
    assert main_run([*options(images, tmp_path / "half"), "--train.steps", "2"]) == 0
    moved, data = tmp_path / "elsewhere" / "run", tmp_path / "other" / "pictures"
    data.parent.mkdir()
    shutil.move(images, data)
    moved.parent.mkdir()
    shutil.move(tmp_path / "half", moved)
    assert main_run([str(moved), "--train.steps", "4", "--data.root", str(data)]) == 0
    tiny.assert_same(tiny.tensors(moved, 4), tiny.tensors(tmp_path / "whole", 4))
    assert tiny.losses(moved) == tiny.losses(tmp_path / "whole")
    assert not (tmp_path / "half").exists()
    shutil.rmtree(data)
    assert vco.open_run(moved).sample([0, 1]).shape == (2, 3, 8, 8)


def test_the_option_resume_is_the_same(images: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main_run([*options(images, tmp_path / "run"), "--train.steps", "2"]) == 0
    assert main_run(["--resume", str(tmp_path / "run"), "--train.steps", "3"]) == 0
    assert vco.open_run(tmp_path / "run").step == 3
    assert "resuming after step 2 of 3" in capsys.readouterr().out


def test_a_run_whose_images_differ_is_refused(images: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main_run([*options(images, tmp_path / "run"), "--train.steps", "2"]) == 0
    (images / "train" / CLASSES[0] / "0.png").rename(images / "train" / CLASSES[0] / "new.png")
    capsys.readouterr()
    assert main_run([str(tmp_path / "run"), "--train.steps", "4"]) == 2
    line = next(line for line in said(capsys).splitlines() if line.startswith("vco-run: "))
    assert line.startswith(f"vco-run: data: its content is not what the run in {tmp_path / 'run'} was trained on (SHA")
    assert vco.open_run(tmp_path / "run").step == 2


def test_another_seed_is_another_run(images: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main_run([*options(images, tmp_path / "run"), "--train.steps", "2"]) == 0
    assert main_run([str(tmp_path / "run"), "--seed", "5"]) == 2
    assert "holds a run with other settings" in said(capsys)


def test_accumulation_and_precision_may_change(images: Path, tmp_path: Path) -> None:
    assert main_run([*options(images, tmp_path / "run"), "--train.steps", "2"]) == 0
    more = ["--train.steps", "4", "--train.accumulation", "2", "--mixed-precision", "fp32"]
    assert main_run([str(tmp_path / "run"), *more]) == 0
    sessions = tiny.lines(tmp_path / "run" / "sessions.jsonl")
    assert [(each["step"], each["accumulation"], each["processes"]) for each in sessions] == [(0, 1, 1), (2, 2, 1)]
    assert all(each["libraries"]["torch"] and each["vco"] == vco.__version__ for each in sessions)


# ------------------------------------------------------------------------------------------------ what is remembered


def test_the_folder_remembers_classes_counts_and_contents(images: Path, tmp_path: Path) -> None:
    assert main_run([*options(images, tmp_path / "run"), "--train.steps", "1"]) == 0
    facts = yaml.safe_load((tmp_path / "run" / "facts.yaml").read_text())
    assert facts["class_names"] == list(CLASSES)
    assert facts["class_counts"] == {"train": [PER_CLASS] * 2, "test": [PER_CLASS] * 2}
    assert set(facts["contents"]) == {"data"}


def test_frozen_encoders_are_remembered_by_their_weights(tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.steps", "1", "--metric", "none")) == 0
    facts = yaml.safe_load((tmp_path / "facts.yaml").read_text())
    assert set(facts["contents"]) == {"data", "features.digits-vit"}
    assert all(len(digest) == 64 for digest in facts["contents"].values())


def test_code_that_has_changed_since_is_said(tmp_path: Path, capsys: Capture) -> None:
    argv = tiny.argv(tmp_path, "--train.steps", "1", "--metric", "none")
    assert main_run(argv) == 0
    path = tmp_path / "sessions.jsonl"
    before = json.loads(path.read_text())
    assert {"backbone jit-dual", "loss hybrid", "data digits"} <= before["code"].keys()
    path.write_text(json.dumps(before | {"code": before["code"] | {"loss hybrid": "0123456789ab"}}) + "\n")
    capsys.readouterr()
    assert main_run([str(tmp_path), "--train.steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "the code of loss hybrid has changed since the run was last started" in out
    assert out.count("the code of") == 1


# ----------------------------------------------------------------------------------------------------- bad commands


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (("--preset", "digits"), "--preset"),
        (("--name", "x", "--output-dir", "y"), "--name and --output-dir"),
        (("--config", "c.yaml"), "--config"),
    ],
)
def test_a_run_that_goes_on_takes_no_other_settings(
    more: tuple[str, ...], names: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert main_run([str(tmp_path), *more]) == 2
    assert f"goes on there with its own settings; leave out {names}" in said(capsys)


def test_one_positional_argument_names_the_run() -> None:
    assert parse(["runs/a", "--seed", "1"]).flags["resume"] == ["runs/a"]
    assert parse(["runs/a", "runs/b"]).errors == ("unexpected argument 'runs/b': options are written --option value",)
    assert parse(["--from", "runs/a@5"]).layer["start_from"].value == "runs/a@5"


def test_refresh_in_an_empty_folder_does_not_start_a_training(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path / "run", "--guidance.scale", "3", "--refresh")) == 2
    assert "--refresh does again what a finished run did" in said(capsys)
    assert not (tmp_path / "run").exists()


def test_settings_that_a_finished_run_ignored_are_named(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.steps", "1", "--metric", "none")) == 0
    capsys.readouterr()
    assert main_run(tiny.argv(tmp_path, "--train.steps", "1", "--metric", "none", "--guidance.scale", "3")) == 0
    assert "nothing was done with guidance.scale, which differ from before" in capsys.readouterr().out


def test_a_dry_run_sees_that_the_folder_holds_another_run(tmp_path: Path, capsys: Capture) -> None:
    argv = tiny.argv(tmp_path, "--train.steps", "1", "--metric", "none")
    assert main_run(argv) == 0
    assert main_run([*argv, "--dry-run"]) == 0
    capsys.readouterr()
    assert main_run([*argv, "--dry-run", "--seed", "9"]) == 3
    assert "  seed: 0 there, 9 here" in capsys.readouterr().out


def test_a_session_is_one_line_of_json(tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.steps", "1", "--metric", "none")) == 0
    (line,) = (tmp_path / "sessions.jsonl").read_text().splitlines()
    assert json.loads(line)["command"]
