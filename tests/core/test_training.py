import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from toy_plugin.losses import Square
from toy_plugin.networks import Doubled, Toy

from vco.api import IMAGE, Condition, Denoised, Step, Streams, Times
from vco.cli import main_run
from vco.errors import TrainingStoppedError, UserError
from vco.storage import checkpoint

EVERY_STEP = ("--train.checkpoint-every", "1", "--train.keep-checkpoints", "10")
ODD = ("--plugin", "odd_plugin")
WAYS = {
    "the default recipe": (),
    "accumulation": ("--train.accumulation", "2"),
    "reader processes": ("--train.workers", "2"),
    "plain shuffling and no features": (
        *tiny.ONE_STREAM, "--train.samples-per-class", "0", "--train.batch-size", "333", "--train.accumulation", "3",
    ),
    "a fitted adapter": ("--adapter", "rms"),
    "a loss that draws from the ambient generator": (*ODD, "--loss", "restless"),
    "two optimizers and a falling rate": ("--optimizer", "muon", "--train.schedule", "cosine"),
    "a teacher, a codec and a network that draw, times of tokens": (
        *tiny.TOY, "--backbone.tosses", "3", "--codec", "doubled", "--process", "toy-tokens",
        "--loss", "asking,drawing",
    ),
}  # fmt: skip


def state_of(training: tiny.Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.objective.state_dict().items()}


def resume_at(step: int, whole: Path, folder: Path) -> Path:
    """A run folder as a kill after some later step leaves it: with the checkpoint of `step`, and too many log lines."""
    name = f"checkpoints/step-{step:08d}"
    shutil.copytree(whole / name, folder / name)
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[: step + 2]) + '{"step": 9, "lo')
    return folder


# --------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("way", WAYS)
def test_a_resume_at_every_step_changes_no_bit(tmp_path: Path, way: str) -> None:
    options = WAYS[way]
    tiny.train(tmp_path / "whole", *options, *EVERY_STEP)
    expected, losses = tiny.tensors(tmp_path / "whole"), tiny.losses(tmp_path / "whole")
    for step in range(1, tiny.STEPS):
        folder = resume_at(step, tmp_path / "whole", tmp_path / str(step))
        tiny.train(folder, *options)
        tiny.assert_same(tiny.tensors(folder), expected)
        assert tiny.losses(folder) == losses


@pytest.fixture
def other_precision() -> Iterator[None]:
    """Accelerate takes one precision for all runs of a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("other_precision")
def test_a_resume_under_half_precision_changes_no_bit(tmp_path: Path) -> None:
    half = ("--mixed-precision", "bf16", "--train.clip-gradients", "0.5")
    tiny.train(tmp_path / "whole", *half, *EVERY_STEP)
    tiny.train(resume_at(3, tmp_path / "whole", tmp_path / "resumed"), *half)
    tiny.assert_same(tiny.tensors(tmp_path / "resumed"), tiny.tensors(tmp_path / "whole"))
    assert tiny.losses(tmp_path / "resumed") == tiny.losses(tmp_path / "whole")


def test_a_log_holds_each_step_once_after_resumes(tmp_path: Path) -> None:
    tiny.train(tmp_path / "whole", *EVERY_STEP)
    folder = resume_at(2, tmp_path / "whole", tmp_path / "resumed")
    tiny.train(folder)
    assert [line["step"] for line in tiny.metrics(folder)] == list(range(1, tiny.STEPS + 1))


def test_several_stops_within_one_epoch_change_no_bit(tmp_path: Path) -> None:
    tiny.train(tmp_path / "whole")
    for steps in ("2", "3", "6"):
        tiny.train(tmp_path / "stopped", "--train.steps", steps)
    tiny.assert_same(tiny.tensors(tmp_path / "stopped"), tiny.tensors(tmp_path / "whole"))


def test_the_number_of_readers_changes_no_bit(tmp_path: Path) -> None:
    tiny.train(tmp_path / "none")
    tiny.train(tmp_path / "two", "--train.workers", "2")
    tiny.assert_same(tiny.tensors(tmp_path / "none"), tiny.tensors(tmp_path / "two"))


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    tiny.train(tmp_path / "a")
    tiny.train(tmp_path / "b", "--seed", "1")
    assert tiny.losses(tmp_path / "a") != tiny.losses(tmp_path / "b")


def test_logging_sampling_and_saving_change_no_bit(tmp_path: Path) -> None:
    tiny.train(tmp_path / "rarely")
    tiny.train(tmp_path / "often", *EVERY_STEP, "--train.sample-every", "1", "--train.log-every", "4")
    tiny.assert_same(tiny.tensors(tmp_path / "often"), tiny.tensors(tmp_path / "rarely"))


def test_a_damaged_checkpoint_is_named_and_the_run_ends_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.train(tmp_path / "whole", *EVERY_STEP)
    folder = tmp_path / "damaged"
    for step in (3, 4):
        resume_at(step, tmp_path / "whole", folder)
    (folder / "checkpoints" / "step-00000004" / "optimizer.safetensors").write_bytes(b"")
    tiny.train(folder)
    assert "optimizer.safetensors differs from what was written" in capsys.readouterr().out
    tiny.assert_same(tiny.tensors(folder), tiny.tensors(tmp_path / "whole"))


def test_a_checkpoint_of_other_components_is_refused_before_anything_changes(tmp_path: Path) -> None:
    tiny.train(tmp_path, "--train.steps", "1")
    with pytest.raises(UserError, match=r"holds other components than this run: .* more tensors differ"):
        tiny.prepare(tmp_path, "--backbone.width", "32")
    tiny.train(tmp_path, "--train.steps", "2")


# ---------------------------------------------------------------------------------------------------------- one process


def test_accumulation_changes_rounding_only(tmp_path: Path) -> None:
    # `rms` and not `coredi`, whose covariance term sees the images of one forward pass
    tiny.train(tmp_path / "one", "--adapter", "rms")
    tiny.train(tmp_path / "two", "--adapter", "rms", "--train.accumulation", "2")
    for one, two in zip(tiny.metrics(tmp_path / "one"), tiny.metrics(tmp_path / "two"), strict=True):
        # float32 sums in another order: 1e-7 each, grown by six steps of Adam, which divides by small numbers
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-6)


def test_accumulation_changes_rounding_only_where_the_process_learns(tmp_path: Path) -> None:
    """The times carry a graph, which one backward pass uses up: they are drawn anew for each part."""
    options = (*tiny.TOY, "--loss", "none", "--process", "toy-learned")
    one, two = (tiny.prepare(tmp_path / parts, *options, "--train.accumulation", parts) for parts in "12")
    before = {name: value.clone() for name, value in one.objective.state_dict().items()}
    assert one.train() == two.train() == 0
    learned = one.objective.state_dict()["process.shift"]
    assert (learned - before["process.shift"]).abs() > 1e-3
    for name, value in one.objective.state_dict().items():
        torch.testing.assert_close(two.objective.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    for alone, parts in zip(tiny.metrics(tmp_path / "1"), tiny.metrics(tmp_path / "2"), strict=True):
        assert parts["loss"] == pytest.approx(alone["loss"], rel=1e-5)


def test_what_travels_with_the_images_reaches_network_and_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Tensor] = []
    forward, of_loss = Toy.forward, Square.forward

    def network(self: Toy, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        if self.training:
            heard.append(condition.context["caption"])
        return forward(self, noisy, times, condition, taps)

    def loss(self: Square, step: Step) -> object:
        # image i is filled with 6 i, and its caption is (i / 40, 1)
        index = ((step.images[:, 0, 0, 0] + 1) * 127.5 / 6).round()
        torch.testing.assert_close(step.extras["caption"], torch.stack([index / 40, torch.ones_like(index)], 1))
        assert torch.equal(step.extras["caption"], heard[-1])
        assert len(step.noisy[IMAGE]) == len(index)
        return of_loss(self, step)

    monkeypatch.setattr(Toy, "forward", network)
    monkeypatch.setattr(Square, "forward", loss)
    options = (*tiny.TOY, "--data", "captioned", "--loss", "square", "--train.accumulation", "2")
    tiny.train(tmp_path, *options)
    assert len(heard) == 2 * tiny.STEPS


def test_a_codec_draws_for_every_visit_of_an_image_and_the_same_however_batches_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[int, list[list[float]]] = {}
    encode = Doubled.encode

    def noted(self: Doubled, images: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        for image, rows in zip(images, noise, strict=True):
            index = round((image[0, 0, 0].item() + 1) * 127.5 / 6)  # image i is filled with 6 i
            drawn.setdefault(index, []).append(rows.flatten().tolist())
        return encode(self, images, noise)

    monkeypatch.setattr(Doubled, "encode", noted)
    options = (*tiny.TOY, "--data", "captioned", "--codec", "doubled", "--loss", "none", "--train.samples-per-class",
               "0", "--train.steps", "4")  # fmt: skip
    tiny.train(tmp_path / "whole", *options)  # 40 images in batches of 20: every image twice
    whole = dict(drawn)
    drawn.clear()
    tiny.train(tmp_path / "parts", *options, "--train.accumulation", "2")
    assert drawn == whole
    assert {len(visits) for visits in whole.values()} == {2}
    assert len({tuple(visit) for visits in whole.values() for visit in visits}) == 80


def test_the_weights_trained_are_never_those_of_an_average(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path / "sampled", "--train.sample-every", "1")
    assert training.train() == 0
    before = state_of(training)
    training.sample()
    training.averaged()
    tiny.assert_same(state_of(training), before)
    averages = [{f"model/{name}": value for name, value in average.items()} for average in training.ema.averages]
    saved = tiny.tensors(tmp_path / "sampled")
    assert all(torch.equal(saved[f"model/{name}"], value) for name, value in before.items())
    weight = "model/backbone.embeds.image.expand.weight"
    assert all(not torch.equal(average[weight], saved[weight]) for average in averages)


def test_what_is_sampled_and_evaluated_is_the_first_average(tmp_path: Path) -> None:
    training = tiny.train(tmp_path)
    tiny.assert_same(dict(training.averaged().state_dict()), training.ema.averages[0])


def test_the_frozen_encoder_is_neither_changed_nor_given_gradients(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path)
    (source,) = training.objective.sources.values()
    before = {name: value.clone() for name, value in source.state_dict().items()}
    assert training.train() == 0
    tiny.assert_same(dict(source.state_dict()), before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in source.parameters())
    assert not source.training
    trained = {parameter.data_ptr() for parameter in training.parameters.values()}
    assert trained.isdisjoint(parameter.data_ptr() for parameter in source.parameters())


def test_signals_do_after_training_what_they_did_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    tiny.train(tmp_path, "--train.steps", "1")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# ------------------------------------------------------------------------------------------------------------------ NaN


@pytest.mark.parametrize("log_every", ["1", "50"])
def test_a_loss_that_is_nan_ends_the_run_with_the_last_checkpoint_intact(
    tmp_path: Path, log_every: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--loss", "nan-later", "--loss.nan-later.after", "3", *EVERY_STEP, "--train.log-every", log_every)
    status = main_run(tiny.argv(tmp_path, *ODD, *options))
    assert status == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("vco-run: training stopped: ")
    assert "nan-later" in said
    assert "by step 3" in said
    newest = checkpoint.load_newest(tmp_path / "checkpoints", pytest.fail)
    assert newest is not None
    assert newest.step == 2
    assert all(value.isfinite().all() for value in newest.tensors["model"].values())


def test_weights_that_are_nan_are_not_saved(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path)
    with torch.no_grad():
        next(iter(training.parameters.values())).view(-1)[0] = float("nan")
    with pytest.raises(TrainingStoppedError, match="NaN or infinite by step"):
        training.train()
    assert not (tmp_path / "checkpoints").exists()


# -------------------------------------------------------------------------------------------------------------- signals


def begin(folder: Path, *options: str) -> "subprocess.Popen[str]":
    """Starts `vco-run` and waits for its third step."""
    command = [sys.executable, "-m", "vco.cli", *tiny.argv(folder, *options)]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
    )
    until = time.monotonic() + 240  # a busy machine takes long to import torch
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 3):
        if run.poll() is not None or time.monotonic() > until:
            run.kill()
            pytest.fail(f"no third step: {run.communicate()[1]}")
        time.sleep(0.01)
    return run


@pytest.mark.slow  # two runs of about six seconds each
@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_run_that_is_told_to_stop_saves_and_the_same_command_ends_as_if_it_had_not_been(
    tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    options = ("--train.steps", "80", "--train.workers", "1")
    run = begin(tmp_path / "stopped", *options)
    os.killpg(run.pid, number) if whole_group else run.send_signal(number)
    said = run.communicate(timeout=240)[0]
    assert run.returncode == 128 + number
    assert "stopped by a signal after step" in said
    newest = checkpoint.load_newest(tmp_path / "stopped" / "checkpoints", pytest.fail)
    assert newest is not None
    assert 3 <= newest.step < 80
    assert main_run(tiny.argv(tmp_path / "stopped", *options)) == 0
    tiny.train(tmp_path / "whole", *options)
    tiny.assert_same(tiny.tensors(tmp_path / "stopped", 80), tiny.tensors(tmp_path / "whole", 80))
    assert tiny.losses(tmp_path / "stopped") == tiny.losses(tmp_path / "whole")


@pytest.mark.slow  # as above
def test_a_killed_run_can_be_started_again_at_once_and_ends_the_same(tmp_path: Path) -> None:
    options = ("--train.steps", "80", "--train.workers", "2", "--train.checkpoint-every", "2")
    run = begin(tmp_path / "killed", *options)
    run.kill()
    run.wait()
    assert main_run(tiny.argv(tmp_path / "killed", *options)) == 0
    run.communicate()
    tiny.train(tmp_path / "whole", *options)
    tiny.assert_same(tiny.tensors(tmp_path / "killed", 80), tiny.tensors(tmp_path / "whole", 80))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_image_that_cannot_be_read_ends_the_run_with_one_sentence(
    tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*ODD, "--data", "spoilt", "--train.workers", workers)
    assert main_run(tiny.argv(tmp_path, *options)) == 2
    said = capsys.readouterr().err
    assert said.strip().splitlines()[-1] == "vco-run: image 17 cannot be read; replace it"
    assert "Traceback" not in said


@pytest.mark.slow  # two new processes
@pytest.mark.parametrize("mistake", [("--loss", "broken"), ("--data", "crashing")])
def test_an_unforeseen_error_ends_the_run_and_its_readers(tmp_path: Path, mistake: tuple[str, str]) -> None:
    """Readers ignore SIGTERM, so nobody may wait for them after sending it."""
    options = (*ODD, *mistake, "--train.workers", "2")
    command = [sys.executable, "-m", "vco.cli", *tiny.argv(tmp_path, *options)]
    search = {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | search)
    assert done.returncode == 1
    assert "a mistake in a plugin" in done.stderr
