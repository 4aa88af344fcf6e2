"""What a run folder says of itself is true, also after commands that ask for something else, and after failures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import yaml

from vco.cli import main_run
from vco.evaluation.evaluate import Evaluation
from vco.folder import differences
from vco.storage import publishing
from vco.training.loop import Training

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert main_run(tiny.argv(folder, "--train.steps", "2")) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The folder of a run that is finished after two steps."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def described(folder: Path) -> int:
    return yaml.safe_load((folder / "config.yaml").read_text())["sample"]["steps"]


# ---------------------------------------------------------------------------------------------------------- config.yaml


def test_a_finished_run_that_is_asked_for_other_samples_keeps_what_it_says(folder: Path, capsys: Capture) -> None:
    before = content(folder)
    assert main_run(tiny.argv(folder, "--train.steps", "2", "--sample.steps", "2", "--solver", "euler")) == 0
    assert "this run is finished (2 steps)" in capsys.readouterr().out
    assert content(folder) == before


def test_it_says_the_new_settings_once_they_were_used(folder: Path) -> None:
    assert main_run(tiny.argv(folder, "--train.steps", "2", "--sample.steps", "2", "--refresh")) == 0
    assert described(folder) == json.loads((folder / "eval.json").read_text())["sample"]["steps"] == 2


def test_it_says_the_old_settings_while_the_new_evaluation_is_not_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluation, "score", interrupted)
    assert main_run(tiny.argv(folder, "--train.steps", "2", "--sample.steps", "2", "--refresh")) == 130
    assert described(folder) == json.loads((folder / "eval.json").read_text())["sample"]["steps"] == 1


@pytest.mark.parametrize("option", [(), ("--refresh",)])
def test_fewer_steps_than_were_done_are_refused(folder: Path, option: tuple[str, ...], capsys: Capture) -> None:
    before = content(folder)
    assert main_run(tiny.argv(folder, "--train.steps", "1", *option)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"vco-run: the run in {folder} is already at step 2, and train.steps is 1; "
        "set --train.steps to 2 or more, or choose another --output-dir"
    )
    assert content(folder) == before


# -------------------------------------------------------------------------------------------------- what may change


def changed(folder: Path, *options: str) -> dict[str, tuple[object, object]]:
    """The settings that a run of other options may not have changed, of a run without them."""
    return differences(tiny.invocation(folder).config, tiny.invocation(folder, *options).config)


def test_settings_that_change_nothing_computed_before_may_change(tmp_path: Path) -> None:
    free = (
        "--train.steps", "900", "--train.log-every", "7", "--train.workers", "1", "--train.timeout", "99",
        "--train.checkpoint-every", "3", "--train.keep-checkpoints", "9", "--train.sample-every", "3",
        "--sample.steps", "9", "--sample.batch-size", "3", "--eval.samples", "30", "--eval.every", "5",
        "--metric", "fd=digits-vit", "--solver", "heun", "--guidance.scale", "3",
        "--guidance.stream-low", "features=0.2",
    )  # fmt: skip
    assert changed(tmp_path, *free) == {}


def test_all_others_may_not(tmp_path: Path) -> None:
    bound = (
        "--seed", "1", "--train.batch-size", "40", "--train.schedule", "cosine", "--train.clip-gradients", "1",
        "--optimizer.betas", "0.9,0.99", "--codec.noise-scale", "2", "--features", "digits-vit,digits-cnn",
        "--loss.t-low", "0.1",
    )  # fmt: skip
    assert changed(tmp_path, *bound) == {
        "codec.noise_scale": (1.0, 2.0),
        "features.digits-cnn.name": ("(not set)", "digits-cnn"),
        "features.digits-cnn.weights": ("(not set)", "digits-cnn"),
        "features.order": ("(not set)", ["digits-vit", "digits-cnn"]),
        "loss.hybrid.t_low": (0.0, 0.1),
        "optimizer.betas": ([0.9, 0.95], [0.9, 0.99]),
        "seed": (0, 1),
        "train.batch_size": (20, 40),
        "train.clip_gradients": (0.0, 1.0),
        "train.schedule": ("constant", "cosine"),
    }


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_number_of_steps_is_bound_where_the_learning_rate_falls_to_the_last_one(
    schedule: str, tmp_path: Path, capsys: Capture
) -> None:
    falling = ("--train.schedule", schedule)
    assert main_run(tiny.argv(tmp_path, "--train.steps", "2", *falling)) == 0
    capsys.readouterr()
    assert main_run(tiny.argv(tmp_path, "--train.steps", "4", *falling)) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"vco-run: {tmp_path} holds a run with other settings; choose another --name or --output-dir:",
        "vco-run:   train.steps: 2 there, 4 here",
    ]


def test_the_settings_of_an_older_api_in_the_folder_are_one_clear_sentence(folder: Path, capsys: Capture) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["api"], config["metric"]
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "evaluator": {"name": "digits-cnn"}}))
    before = content(folder)
    assert main_run(tiny.argv(folder, "--train.steps", "2")) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("config.yaml cannot be used; put it right or choose another --output-dir:")
    assert "was written for version 1 of vco's settings, and this vco reads version 2: use the vco that wrote" in second
    assert content(folder) == before


# -------------------------------------------------------------------------------------------------------- metrics.jsonl


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "loss": "abc", "image": null, "features": [1], "hybrid": {}}', '{"step": 2, "lo', "", "17", "[]",
        '{"step": "2", "loss": 1}', '{"loss": 1}', '{"step": 2, "loss": NaN, "image": Infinity}', "[" * 100_000,
        '{"step": 2, "loss": 1' + "0" * 400 + "}", '{"step": 2, "$_$": 1e38}', "\ufffd", "{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("alone", [True, False])
def test_an_edited_line_spoils_no_report(folder: Path, line: str, alone: bool, capsys: Capture) -> None:
    log = folder / "metrics.jsonl"
    log.write_text("" if alone else log.read_text())
    with log.open("a") as file:
        file.write(line)
    assert main_run(tiny.argv(folder, "--train.steps", "2", "--refresh")) == 0
    assert ('aria-label="image loss over step"' in (folder / "report.html").read_text()) or alone
    assert "Traceback" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- failures


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def block(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "checkpoints").write_text("")


@pytest.fixture
def save_into(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Lets something happen to the run folder before every save."""

    def install(spoil: Callable[[Path], None]) -> None:
        save = Training._save

        def spoilt(self: Training, *given: object) -> object:
            spoil(self.folder.path)
            return save(self, *given)  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(Training, "_save", spoilt)

    return install


def test_a_run_folder_that_vanishes_ends_the_training_with_status_1(
    tmp_path: Path, capsys: Capture, save_into: Callable[[Callable[[Path], None]], None]
) -> None:
    save_into(remove)
    options = ("--train.log-every", "9", "--train.checkpoint-every", "2")
    assert main_run(tiny.argv(tmp_path / "run", *options)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    # the log, the report or the thread that saves is the first to notice
    assert "No such file or directory" in line
    assert "put that right, then the same command goes on" in line


def test_a_checkpoint_that_cannot_be_written_ends_the_training_with_status_1(
    tmp_path: Path, capsys: Capture, save_into: Callable[[Callable[[Path], None]], None]
) -> None:
    save_into(block)
    options = ("--train.log-every", "9", "--train.checkpoint-every", "2")
    assert main_run(tiny.argv(tmp_path / "run", *options)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"vco-run: training stopped: cannot write checkpoint {tmp_path / 'run'}/checkpoints/step-")
    assert "File exists" in line
    assert line.endswith(
        "older checkpoints are untouched: put that right, then the same command goes on from the newest"
    )


def test_a_full_disk_while_a_checkpoint_is_written_leaves_a_run_that_goes_on(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = publishing.fsync

    def full(path: Path) -> None:
        if "step-00000004" in str(path):
            raise OSError(28, "No space left on device")
        fsync(path)

    options = ("--train.checkpoint-every", "2")
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "fsync", full)
        assert main_run(tiny.argv(tmp_path, *options)) == 1
    assert "No space left on device; older checkpoints are untouched" in capsys.readouterr().err
    assert main_run(tiny.argv(tmp_path, *options)) == 0
    assert "resuming after step 2 of 6" in capsys.readouterr().out


def test_samples_that_cannot_be_written_end_the_training_with_status_1(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "samples" / "step-00000006.png").mkdir(parents=True)
    assert main_run(tiny.argv(tmp_path)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"Is a directory: '{tmp_path / 'samples' / 'step-00000006.png'}'; put that right" in line
