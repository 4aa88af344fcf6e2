"""The memory that a dry run predicts is what a step takes."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vco.cli import main_run
from vco.run import Run, assemble
from vco.training.loop import Training
from vco.training.memory import Kept, State, kept_by, size, state_of

Capture = pytest.CaptureFixture[str]
PLAIN = ("--guidance", "cfg")
"""Nothing is hidden in attention, for which the CPU has a way of its own."""
REPA = ("--loss", "repa", "--loss.block", "1")


def planned(*options: str) -> Run:
    asked = tiny.invocation(Path("nowhere"), *options)
    return assemble(asked.config, asked.catalog, device="meta")


def laid_aside(training: Training, images: int) -> int:
    """Bytes that a forward pass of real tensors keeps for its backward pass, each tensor once."""
    objective = training.objective
    modules = [objective, objective.codec, *objective.sources.values()]
    known = {t.untyped_storage().data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    found: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage
        return tensor

    inputs, draw = tiny.share(slice(0, images), *tiny.batch(training))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        objective.train()(inputs, draw)
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize(
    "options",
    [(*PLAIN, "--loss", "perceptual"), tiny.ONE_STREAM, (*PLAIN, "--adapter", "rms", *REPA, "--process", "learned")],
)
def test_what_an_image_takes_is_what_a_step_lays_aside(options: tuple[str, ...], tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path, *options)
    measured = (laid_aside(training, 8) - laid_aside(training, 4)) / 4
    kept = kept_by(planned(*options), bf16=False)
    assert isinstance(kept, Kept), kept
    assert kept.image == pytest.approx(measured, rel=0.02)


def test_bf16_takes_less_and_so_do_blocks_that_are_recomputed() -> None:
    half, full = (kept_by(planned("--loss", "hybrid"), bf16=bf16) for bf16 in (True, False))
    assert isinstance(half, Kept)
    assert isinstance(full, Kept)
    assert 0.5 * full.image < half.image < 0.9 * full.image
    assert half.recomputed
    assert half.recomputed < 0.8 * half.image
    assert half.frozen == full.frozen > 0


@pytest.mark.parametrize("loss", ["none", "hybrid", "drifting", "perceptual", "repa", "irepa", "meanflow", "sra"])
def test_it_can_be_counted_with_every_loss(loss: str) -> None:
    blocks = {"repa": ("block", "1"), "irepa": ("block", "1"), "sra": ("teacher-block", "2", "block", "1")}.get(
        loss, ()
    )
    more = [f"--loss.{word}" if word[-1].isalpha() else word for word in blocks]
    options = ("--process", "shared", "--loss", loss, *more)
    assert isinstance(kept_by(planned(*options), bf16=True), Kept)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_state_is_what_a_training_holds(optimizer: str, tmp_path: Path) -> None:
    training = tiny.train(tmp_path, "--optimizer", optimizer, "--train.steps", "1", *REPA)
    state = state_of(planned("--optimizer", optimizer, *REPA))
    held = [value for state in training.optimizer.state.values() for value in state.values() if value.ndim]
    assert state.optimizer == sum(value.nbytes for value in held)
    assert state.gradients == sum(4 * parameter.numel() for parameter in training.parameters.values())
    assert state.averages == sum(value.nbytes for average in training.ema.averages for value in average.values())


def test_sharding_cuts_what_belongs_to_the_backbone() -> None:
    plan = planned("--train.sharding", "fsdp", "--train.batch-size", "20", "--loss", "none")
    alone, shared = state_of(plan), state_of(plan, processes=2)
    assert alone.whole / 2 <= shared.whole < 0.55 * alone.whole


def test_a_dry_run_says_what_fits(tmp_path: Path, capsys: Capture) -> None:
    options = tiny.argv(tmp_path / "run", "--dry-run", "--metric", "none")
    assert main_run([*options, "--gpu-memory", "80"]) == 0
    out = capsys.readouterr().out
    assert "weights " in out
    assert "in fp32" in out
    assert "forward pass and process in 80 GB; this run has 20" in out
    assert main_run([*options, "--gpu-memory", "0.001"]) == 0
    assert "which are too many: try more processes than 1" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_counted_breaks_no_dry_run(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise ValueError("values are needed")

    monkeypatch.setattr("vco.training.memory._pass", refuse)
    assert main_run(tiny.argv(tmp_path / "run", "--dry-run", "--metric", "none", "--gpu-memory", "80")) == 0
    assert "cannot be counted: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--dry-run", "--gpu-memory", "much"), "--gpu-memory much: expected the memory of a GPU in GB"),
        (("--dry-run", "--gpu-memory", "-1"), "--gpu-memory -1: expected"),
        (("--gpu-memory", "80"), "--gpu-memory is for a dry run"),
    ],
)
def test_a_memory_that_cannot_be_is_one_sentence(options: tuple[str, ...], sentence: str, capsys: Capture) -> None:
    assert main_run(options) == 2
    assert sentence in capsys.readouterr().err


def test_sizes_are_read_easily() -> None:
    assert [size(n) for n in (6.26e9, 510e6, 1234)] == ["6.26 GB", "510 MB", "1.23 kB"]
    state = State(weights=1, gradients=2, optimizer=3, averages=4)
    kept = Kept(image=2.0, recomputed=1.0, rest=3.0, frozen=5)
    assert (kept.fitting(state, 100.0), kept.fitting(state, 100.0, recomputed=True)) == (37, 74)
    assert kept.fitting(state, 1.0) == 0
    assert math.isclose(state.whole, 10)
