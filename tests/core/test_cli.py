import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from PIL import Image

from vco.cli import main_run
from vco.errors import UserError
from vco.evaluation.evaluate import Evaluation
from vco.storage.files import lock
from vco.training.loop import Training

Capture = pytest.CaptureFixture[str]
PARAMETERS = {"b": 260_666_112, "l": 915_384_768, "h": 1_901_737_856}


def said(capsys: Capture) -> list[str]:
    """The lines on the error stream, less the progress bars."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return [line.removeprefix("vco-run: ") for line in error.splitlines() if line.startswith("vco-run: ")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    assert main_run(tiny.argv(folder)) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# -------------------------------------------------------------------------------------------------------- good commands


def test_a_run_says_what_is_run_and_ends_with_the_score_the_folder_and_how_to_go_on(
    tmp_path: Path, capsys: Capture
) -> None:
    assert main_run(tiny.argv(tmp_path / "run")) == 0
    out = capsys.readouterr().out.splitlines()
    for part in ("data  digits: 10 classes, 1x8x8", "jit-dual: 26,892 parameters", "adapter  coredi", "device  "):
        assert any(part in line for line in out), part
    assert out[-1].startswith("FD (digits-cnn) ")
    assert str(tmp_path / "run") in out[-1]
    assert "--train.steps 12" in out[-1]


def test_a_run_folder_holds_all_that_was_promised(finished: Path) -> None:
    files = set(content(finished))
    assert {"config.yaml", "metrics.jsonl", "eval.json", "report.html", "samples/step-00000006.png"} <= files
    score = json.loads((finished / "eval.json").read_text())
    assert score["metric"] == "FD (digits-cnn)"
    assert 0 < score["real_value"] < score["value"]
    assert score["step"] == tiny.STEPS


def test_a_finished_run_says_so_and_changes_nothing(finished: Path, capsys: Capture) -> None:
    before = content(finished)
    assert main_run(tiny.argv(finished)) == 0
    out = capsys.readouterr().out
    assert "this run is finished (6 steps)" in out
    assert "--refresh" in out
    assert content(finished) == before


def test_a_finished_run_that_cannot_be_written_to_has_nothing_to_do(
    finished: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(*given: object) -> None:
        raise UserError("cannot write")

    monkeypatch.setattr("vco.folder.lock", lock)  # whoever runs the tests may be allowed everything
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main_run(tiny.argv(finished)) == 0
    assert "this run is finished (6 steps)" in capsys.readouterr().out
    for more in (["--refresh"], ["--train.steps", "7"]):
        assert main_run(tiny.argv(finished, *more)) == 2
        assert said(capsys) == ["cannot write"]
    assert main_run(tiny.argv(finished, "--seed", "3")) == 2
    assert "holds a run with other settings" in said(capsys)[0]


def test_its_config_file_repeats_a_run(finished: Path, capsys: Capture) -> None:
    assert main_run(["--config", str(finished / "config.yaml")]) == 0
    assert "this run is finished" in capsys.readouterr().out


def test_refresh_evaluates_anew_and_gets_the_same(finished: Path, capsys: Capture) -> None:
    before = content(finished)
    (finished / "eval.json").write_text('{"step": 6}')
    (finished / "samples" / "step-00000006.png").unlink()
    assert main_run(tiny.argv(finished, "--refresh")) == 0
    assert "FD (digits-cnn)" in capsys.readouterr().out
    now = content(finished)
    assert now.keys() == before.keys()
    assert {name for name in now if now[name] != before[name]} <= {"report.html", "evals.jsonl"}  # which adds a line


def test_an_evaluation_of_other_steps_is_done_anew(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.steps", "1")) == 0
    before = json.loads((tmp_path / "eval.json").read_text())
    tiny.train(tmp_path, "--train.steps", "2")  # as if killed before the evaluation
    assert main_run(tiny.argv(tmp_path, "--train.steps", "2")) == 0
    assert "this run is finished" not in capsys.readouterr().out
    after = json.loads((tmp_path / "eval.json").read_text())
    assert (before["step"], after["step"]) == (1, 2)


def test_more_steps_go_on_where_the_run_ended(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.steps", "2")) == 0
    assert main_run(tiny.argv(tmp_path, "--train.steps", "3")) == 0
    assert "resuming after step 2 of 3" in capsys.readouterr().out
    assert [line["step"] for line in tiny.metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("size", PARAMETERS)
def test_dry_runs_of_the_imagenet_presets_print_their_sizes_and_what_is_missing(
    size: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main_run(["--preset", f"imagenet256-{size}16", "--dry-run"]) == 3
    out = capsys.readouterr().out
    assert f"{PARAMETERS[size]:,} parameters" in out
    assert "still needed: data image-folder: it needs --data.root" in out
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- bad commands


BAD = {
    "an unknown component": (["--backbone", "jit-dul"], ["jit-dul", "did you mean", "--backbone"]),
    "an unknown option": (["--train.step", "5"], ["train.step", "unknown option", "train.steps"]),
    "a rate that float32 cannot hold": (
        ["--train.learning-rate", "1e300"],
        ["train.learning_rate", "expected float of a size below 2**63, got '1e300'"],
    ),
    "an unknown section": (["--trian.steps", "5"], ["trian.steps", "unknown option", "train.steps"]),
    "an unknown preset": (["--preset", "digit"], ["digit", "digits"]),
    "a word that is no option": (["steps"], ["steps"]),
    "a negative size": (["--train.batch-size", "-8"], ["batch_size", "-8"]),
    "a size of zero": (["--train.steps", "0"], ["steps", "0"]),
    "a size that is no number": (["--train.steps", "many"], ["train.steps", "many"]),
    "heads that do not divide the width": (["--backbone.heads", "3"], ["heads", "width", "16"]),
    "groups that do not fit": (["--train.samples-per-class", "3"], ["samples_per_class", "3", "20"]),
    "hybrid without groups": (["--train.samples-per-class", "0"], ["hybrid", "--train.samples-per-class"]),
    "more groups than classes": (["--train.samples-per-class", "1"], ["20 class groups", "classes", "digits"]),
    "a patch that does not divide the image": (["--backbone.patch", "3"], ["3", "8x8"]),
    "no feature stream for an adapter": (
        ["--backbone", "jit", "--adapter", "coredi", "--guidance", "cfg"],
        ["coredi", "features stream", "jit", "jit-dual"],
    ),
    "a fusion that cannot block": (
        ["--backbone", "jit-joint", "--backbone.fusion", "direct-addition", "--backbone.own-blocks", "1",
         "--backbone.context-start", "0"],
        ["structural", "--backbone.fusion token-concat", "--guidance cfg", "another backbone (jit-dual, sit-dual)"],
    ),
    "a missing data folder": (
        ["--preset", "imagenet256-b16", "--data.root", "/nope"],
        ["/nope", "--data.root"],
    ),
    "missing weights": (
        ["--preset", "imagenet256-b16", "--features.weights", "/nope"],
        ["/nope", "--features.weights"],
    ),
    "a missing configuration": (["--config", "/nope.yaml"], ["/nope.yaml"]),
    "a plugin that is not there": (["--plugin", "no_such_plugin"], ["no_such_plugin"]),
    "a block that is not there": (
        ["--loss", "repa"],
        ["loss repa reads block 4", "blocks 1 to 2", "set --loss.repa.block"],
    ),
    "an accumulation that does not divide": (["--train.accumulation", "3"], ["accumulation", "3"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_said_clearly_with_status_2_and_nothing_is_written(
    mistake: str, tmp_path: Path, capsys: Capture
) -> None:
    argv, words = BAD[mistake]
    assert main_run(tiny.argv(tmp_path / "run", *argv)) == 2
    lines = said(capsys)
    assert any(all(word in line for word in words) for line in lines), lines
    assert not (tmp_path / "run").exists()


ONE_LINE = sorted(BAD.keys() - {"a missing data folder", "missing weights"})  # there other files are missing too


@pytest.mark.parametrize("mistake", ONE_LINE)
def test_one_mistake_is_one_line(mistake: str, tmp_path: Path, capsys: Capture) -> None:
    main_run(tiny.argv(tmp_path / "run", *BAD[mistake][0]))
    assert len(said(capsys)) == 1


def test_all_mistakes_are_said_at_once(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path / "run", "--train.step", "5", "--sample.steps", "-1", "--solver", "hoin")) == 2
    assert len(said(capsys)) == 3


@pytest.mark.parametrize("inside", ["file/run", "file", "/proc/self", "/proc/nope"])
def test_an_output_folder_that_cannot_be_written_is_named(inside: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("precious")
    assert main_run(tiny.argv(tmp_path / inside)) == 2
    (line,) = said(capsys)
    assert "cannot write to the run folder" in line
    assert "--output-dir" in line
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_of_another_run_is_refused_and_every_difference_shown(finished: Path, capsys: Capture) -> None:
    before = content(finished)
    assert main_run(tiny.argv(finished, "--train.learning-rate", "0.5", "--backbone.width", "32")) == 2
    lines = said(capsys)
    assert "holds a run with other settings" in lines[0]
    assert lines[1:] == ["  backbone.width: 16 there, 32 here", "  train.learning_rate: 0.002 there, 0.5 here"]
    assert content(finished) == before


def test_a_folder_of_another_component_is_refused(finished: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(finished, "--loss", "perceptual")) == 2
    assert any("loss.hybrid" in line and "(not set) here" in line for line in said(capsys))


def test_what_acts_in_sampling_alone_may_change_after_training(tmp_path: Path, capsys: Capture) -> None:
    moves = ("--train.learning-rate", "0.02", "--train.warmup-steps", "0", "--train.ema-decays", "0.1")
    options = ("--train.steps", "2", "--process", "independent", "--sample.steps", "3")
    argv = tiny.argv(tmp_path, *options, *moves)
    assert main_run(argv) == 0
    before = json.loads((tmp_path / "eval.json").read_text())
    assert main_run([*argv, "--refresh", "--guidance.scale", "3", "--process.lead", "2"]) == 0
    after = json.loads((tmp_path / "eval.json").read_text())
    assert (before["guidance"]["scale"], after["guidance"]["scale"]) == (1.5, 3.0)
    assert after["value"] != before["value"]
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["guidance"]["scale"], config["process"]["lead"]) == (3.0, 2.0)
    said(capsys)
    assert main_run([*argv, "--refresh", "--guidance.drop", "0.5", "--process.shift", "2"]) == 2
    assert said(capsys)[1:] == ["  guidance.drop: 0.1 there, 0.5 here", "  process.shift: 0.5 there, 2.0 here"]


def test_checkpoints_without_their_config_are_not_touched(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert main_run(tiny.argv(tmp_path)) == 2
    assert "holds checkpoints but no config.yaml" in said(capsys)[0]
    assert set(content(tmp_path)) == set()


@pytest.mark.parametrize(
    "text", ["{", "\x00\xff", "train: {steps: -3}", "", "- 3", "!!python/object/apply:os.getcwd []"]
)
def test_a_spoilt_config_in_the_folder_is_named_and_left_alone(text: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert main_run(tiny.argv(tmp_path)) == 2
    assert said(capsys)[0].startswith(f"{tmp_path / 'config.yaml'} cannot be used")
    assert (tmp_path / "config.yaml").read_text() == text


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Path]:
    """A folder that another process has locked."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        held = lock(tmp_path)
        os.write(writes, b"locked")
        time.sleep(60)
        held.close()
        os._exit(0)
    os.read(reads, 6)
    yield tmp_path
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reads)
    os.close(writes)


def test_a_folder_that_another_run_writes_to_is_refused(taken: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(taken)) == 2
    (line,) = said(capsys)
    assert "another run is writing to" in line
    assert set(content(taken)) == set()


def test_a_full_disk_in_the_midst_of_training_is_one_sentence(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Training, log: object) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(Training, "_log", full)
    assert main_run(tiny.argv(tmp_path)) == 1
    (line,) = said(capsys)
    assert "No space left on device: 'metrics.jsonl'" in line


def test_a_run_is_described_by_its_config_file(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["backbone"]["name"] == "jit-dual"
    assert config["train"]["steps"] == tiny.STEPS
    assert [loss["name"] for loss in config["loss"]] == ["hybrid"]


# -------------------------------------------------------------------------------------------------------------- signals


def test_a_signal_during_the_evaluation_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **named: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Evaluation, "score", interrupted)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT
    try:
        assert main_run(tiny.argv(tmp_path)) == 130
    finally:
        signal.signal(signal.SIGINT, former)
    assert tiny.tensors(tmp_path)  # the last checkpoint is there


def test_a_signal_during_the_last_step_ends_the_run_after_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    step = Training._one_step

    def signalled(self: Training, *given: object) -> object:
        if self.step == tiny.STEPS - 1:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Training, "_one_step", signalled)
    assert main_run(tiny.argv(tmp_path)) == 143
    assert "stopped by a signal after step 6" in capsys.readouterr().out
    assert tiny.tensors(tmp_path)
    assert not (tmp_path / "eval.json").exists()


# ---------------------------------------------------------------------------------------------------------- vco plugins


def test_plugins_are_listed_within_half_a_second_and_without_heavy_libraries() -> None:
    heavy = {"torch", "numpy", "transformers", "timm", "accelerate", "open_clip", "torchvision", "sklearn"}
    code = f"import sys; from vco.cli import main_vco; main_vco(['plugins']); print(*{heavy!r} & set(sys.modules))"
    seconds: list[float] = []
    for _ in range(5):  # the best of five, in processor time: others may use the machine
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert done.stdout.splitlines()[-1] == ""
        assert "jit-dual" in done.stdout
    assert min(seconds) < 0.5


def test_settings_that_failed_before_the_first_checkpoint_bind_nobody(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.learning-rate", "1e15")) == 1
    assert "nothing was saved yet" in capsys.readouterr().err
    assert main_run(tiny.argv(tmp_path)) == 0


def test_weights_of_streams_that_do_not_exist_are_refused(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, "--train.stream-weights", "image=1,feature=0.1")) == 2
    assert "names 'feature', which is no stream of this run (features, image)" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- the usual preset


@pytest.mark.parametrize(
    ("side", "options", "preset"),
    [
        (8, (), "images32"),
        (32, (), "images32"),
        (100, (), "images64"),
        (100, ("--data.size", "32"), "images32"),
        (300, (), "images256"),
        (20, (), "images32"),
        (64, ("--preset", "images32"), "images32"),
    ],
)
def test_the_preset_follows_the_size_of_the_images(
    side: int, options: tuple[str, ...], preset: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for number in range(30):
        Image.fromarray(pixels).save(tmp_path / "cat" / f"{number}.png")
    listed, walk = list[str](), os.walk

    def counted(root: str, *, followlinks: bool) -> Iterator[Any]:
        listed.append(str(root))
        return walk(root, followlinks=followlinks)

    monkeypatch.setattr("vco_plugins.trees.os.walk", counted)
    argv = ["--data", "image-folder", "--data.root", str(tmp_path), *options, "--dry-run"]
    status = main_run(argv)
    assert listed == [str(tmp_path)]  # a large folder takes minutes
    out = capsys.readouterr().out
    assert re.search(rf"^ *preset  {preset}$", out, re.MULTILINE), out
    assert status == 0


def test_digits_keep_their_preset(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(["--data", "digits", "--output-dir", str(tmp_path / "run"), "--dry-run"]) == 0
    assert "preset  digits" in capsys.readouterr().out
