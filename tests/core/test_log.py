"""What a training logs: losses by noise level, how features are spread, gradient, time; and how it is shown."""

import fcntl
import json
import os
import struct
import sys
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
import tiny
import torch
from torch import nn

from vco.errors import TrainingStoppedError
from vco.run import Run
from vco.training import stepping
from vco.training.clock import Clock
from vco.training.loop import Training
from vco.training.progress import Progress
from vco.training.watch import LEVELS, Watch, read, spread

Capture = pytest.CaptureFixture[str]
BY_LEVEL = [f"loss_at.image.{low}-{low + 20}" for low in range(0, 100, 20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that logs every second step."""
    folder = tmp_path_factory.mktemp("logged")
    tiny.train(folder, "--train.log-every", "2")
    return folder


# ------------------------------------------------------------------------------------------------------- what it holds


def test_every_line_says_where_time_went_and_how_the_losses_are_made_up(folder: Path) -> None:
    lines = tiny.metrics(folder)
    assert [line["step"] for line in lines] == [2, 4, 6]
    expected = {"gradient_norm", "learning_rate", "images_per_second", "seconds.data", "seconds.step", "seconds.rest",
                "features.rms", "features.effective_rank", "loss", "image", "features"}  # fmt: skip
    for line in lines:
        assert expected <= line.keys()
        assert any(name in line for name in BY_LEVEL)
        assert line["seconds.step"] > 0
        assert line["images_per_second"] == pytest.approx(tiny.BATCH / (line["seconds.data"] + line["seconds.step"]))


def test_the_levels_of_noise_are_the_logged_loss_cut_into_parts(tmp_path: Path) -> None:
    """Each part counts as often as it has samples: the mean over all samples is the loss itself."""
    training = tiny.prepare(tmp_path)
    tiny.scramble(training)
    inputs, draw = tiny.batch(training)
    watch = Watch()
    training.objective.beside["watch"] = watch
    losses = training.objective(inputs, draw)
    for stream in ("image", "features"):
        totals, counts = watch.packed()[stream]
        assert counts.tolist() == torch.histc(draw.times[stream], LEVELS, 0, 1).tolist()
        assert float(totals.sum() / counts.sum()) == pytest.approx(losses[stream].item(), rel=1e-5)


def test_a_level_without_samples_is_left_out() -> None:
    watch = Watch()
    times, errors = torch.tensor([0.0, 0.1, 0.5, 1.0]), torch.tensor([1.0, 3.0, 5.0, 7.0])
    watch({}, {"image": times}, {"image": errors})
    watch({}, {"image": times[:1]}, {"image": errors[3:]})
    assert read(watch.packed()) == {
        "loss_at.image.0-20": pytest.approx(11 / 3), "loss_at.image.40-60": 5.0, "loss_at.image.80-100": 7.0,
    }  # fmt: skip
    watch.clear()
    assert read(watch.packed()) == {}


def test_times_of_tokens_count_with_their_mean() -> None:
    watch = Watch()
    watch({}, {"image": torch.tensor([[0.0, 0.1], [0.9, 1.0]])}, {"image": torch.tensor([2.0, 4.0])})
    assert read(watch.packed()) == {"loss_at.image.0-20": 2.0, "loss_at.image.80-100": 4.0}


def test_the_effective_rank_is_the_number_of_directions() -> None:
    torch.manual_seed(0)
    isotropic = torch.randn(64, 16, 8)
    found = spread(isotropic)
    assert float(found["effective_rank"]) == pytest.approx(8, abs=0.05)
    assert float(found["rms"]) == pytest.approx(float(isotropic.square().mean().sqrt()))
    line = torch.randn(64, 16, 1) * torch.ones(8)
    assert float(spread(line)["effective_rank"]) == pytest.approx(1, abs=1e-3)
    assert float(spread(5 + isotropic)["effective_rank"]) == pytest.approx(
        8, abs=0.05
    )  # of what varies, not of the mean


def test_what_is_constant_has_no_rank_and_breaks_nothing() -> None:
    assert float(spread(torch.ones(4, 3, 2))["effective_rank"]) == 1.0


def test_features_are_measured_where_they_are_logged_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    call = Watch.__call__

    def noted(self: Watch, *args: object) -> None:
        seen.append(self.looks)
        call(self, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Watch, "__call__", noted)
    tiny.train(tmp_path, "--train.log-every", "4")
    assert seen == [False, False, False, True, False, True]


@pytest.mark.parametrize("clip", ["0", "0.01"])
def test_the_gradient_norm_is_that_of_all_parameters_before_clipping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: str
) -> None:
    norms: list[float] = []

    def noted(run: Run) -> None:  # called in the first step, before clipping
        gradients = [p.grad for p in run.objective.parameters() if p.grad is not None]
        norms.append(sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5)

    monkeypatch.setattr(stepping, "require_gradients", noted)
    tiny.train(tmp_path, "--train.clip-gradients", clip, "--train.steps", "1")
    assert tiny.metrics(tmp_path)[0]["gradient_norm"] == pytest.approx(norms[0], rel=1e-5)


def test_a_gradient_that_is_not_finite_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.utils, "get_total_norm", lambda tensors: torch.tensor(torch.inf))
    training = tiny.prepare(tmp_path)
    with pytest.raises(TrainingStoppedError, match="gradient_norm became NaN or infinite by step 1"):
        training.train()


# ---------------------------------------------------------------------------------------------------------------- time


def test_the_clock_tells_waiting_from_working_and_from_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(torch.device("cpu"))
    for _ in range(2):
        with clock.waiting():
            now[0] += 1.0
        now[0] += 3.0
    with clock.aside():
        now[0] += 10.0
    assert clock.split(2) == {"seconds.data": 1.0, "seconds.step": 3.0, "seconds.rest": 5.0}
    now[0] += 4.0
    assert clock.split(1) == {"seconds.data": 0.0, "seconds.step": 4.0, "seconds.rest": 0.0}


def test_samples_and_checkpoints_do_not_count_as_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, now, passed = Training.sample, time.perf_counter, [0.0]

    def slow(self: Training) -> None:
        passed[0] += 1000.0
        sample(self)

    monkeypatch.setattr(Training, "sample", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now() + passed[0])
    tiny.train(tmp_path, "--train.sample-every", "2", "--train.steps", "3")
    line = tiny.metrics(tmp_path)[-1]
    assert line["seconds.rest"] >= 1000
    assert line["seconds.step"] < 500


@pytest.mark.gpu
def test_on_a_gpu_waiting_is_the_time_in_which_the_device_had_nothing_to_do() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)

    def work() -> None:
        for _ in range(40):
            torch.mm(matrix, matrix)

    work()
    clock = Clock(device)
    work()  # a tenth of a second or so, which the device does while the host waits
    with clock.waiting():
        time.sleep(0.01)
    hidden = clock.split(1)
    with clock.waiting():
        time.sleep(0.3)
    idle = clock.split(1)
    assert hidden["seconds.data"] < 0.005
    assert idle["seconds.data"] == pytest.approx(0.3, abs=0.05)


# ----------------------------------------------------------------------------------------------------------- the screen


@contextmanager
def terminal(columns: int) -> Generator[tuple[TextIO, int]]:
    """A terminal of so many columns: what a program writes to, and where one reads what it shows."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w") as screen:
        yield screen, master
    os.close(master)


def test_in_a_file_progress_is_lines_with_speed_and_time_left(tmp_path: Path, capsys: Capture) -> None:
    tiny.train(tmp_path, "--eval.every", "4")
    out, err = capsys.readouterr()
    assert "\r" not in out
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert lines[0].startswith("step 1/6: loss ")
    assert lines[0].endswith(" left")
    assert " images/s, " in lines[0]
    assert lines[-1].startswith("step 6/6: loss ")
    assert "took" in lines[-1]
    assert "step/s" not in err


def test_lines_come_at_most_every_ten_seconds_but_for_the_last(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    progress = Progress(total=100, start=0, shown=True)
    for _ in range(100):
        now[0] += 1.0
        progress.advance()
        progress.show({"loss": "1.5"})
    shown = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == [*(f"step {step}/100" for step in range(1, 100, 10)), "step 100/100"]


def test_the_time_left_is_that_of_the_steps_left(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    progress = Progress(total=100, start=40, shown=True)
    now[0] = 20.0
    for _ in range(10):
        progress.advance()
    progress.show({"loss": "1.5", "images/s": "12"})
    assert capsys.readouterr().out == "step 50/100: loss 1.5, 12 images/s, 01:40 left\n"


def test_in_a_terminal_of_80_columns_a_bar_shows_loss_score_speed_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(80) as (screen, shown):
        monkeypatch.setattr(sys, "stderr", screen)
        progress = Progress(total=1_000_000, start=999_998, shown=True)
        progress.advance()
        progress.show({"loss": "0.975", "FD": "37.9", "images/s": "1353"})
        progress.close()
        screen.flush()
        text = ""
        while "\n" not in text:
            text += os.read(shown, 10_000).decode()
    bars = text.replace("\r\n", "\n").split("\r")
    assert max(len(bar.rstrip("\n")) for bar in bars) < 80
    assert "999999/1000000" in bars[-1]
    assert "loss 0.975, FD 37.9, 1353 images/s]" in bars[-1]


def test_other_processes_show_nothing(capsys: Capture) -> None:
    progress = Progress(total=2, start=0, shown=False)
    progress.advance()
    progress.show({"loss": "1"})
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_numbers_in_the_log_are_json_that_everybody_reads(folder: Path) -> None:
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
