"""Runs whose weights two processes share out (FSDP2), against runs of one process; all are launched together."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import several_runs
import tiny
import torch
from torch import Tensor

from vco.cli import main_run, main_vco
from vco.errors import UserError
from vco.opened_run import open_run
from vco.storage import checkpoint

pytestmark = pytest.mark.slow  # one launch of 20 tiny runs takes a minute or two

Capture = pytest.CaptureFixture[str]
FSDP: Final = ("--train.sharding", "fsdp")
LOSSES: Final = 1e-6
"""Relative difference of losses: float32 sums in another order; 2e-7 was seen."""
WEIGHTS: Final = 2e-5
"""Difference of weights after six steps, whose own size is 1e-3; 1.1e-5 was seen (sra), elsewhere 4e-6."""
DERIVATIVES: Final = "forward derivatives and quiet passes"
REFUSED: Final = {DERIVATIVES} if torch.__version__ < "2.15" else set[str]()  # compared as versions are
"""Methods that an older PyTorch cannot train with shared-out weights: the run says so."""
METHODS: Final = {
    "coredi with the hybrid loss": (),
    "v-co": (
        "--adapter", "rms", "--train.clip-gradients", "0.5", "--train.batch-size", "16", "--train.accumulation", "2",
        "--optimizer.decay", "matrices", "--optimizer.weight-decay", "0.1",
    ),
    "rows that are gathered": ("--loss", "drifting", "--loss.alpha", "2", "--adapter", "rms"),
    DERIVATIVES: ("--loss", "meanflow", "--loss.omega", "0.5", "--loss.kappa", "0.4"),
    "a teacher, heads that learn and recomputed blocks": (
        *tiny.ONE_STREAM[:6], "--loss", "sra,repa", "--loss.sra.block", "1", "--loss.sra.teacher-block", "2",
        "--loss.repa.block", "1", "--train.checkpoint-blocks", "true",
    ),
    "blocks of each stream, and no average": (
        "--backbone", "jit-joint", "--backbone.fusion", "direct-addition", "--backbone.own-blocks", "1",
        "--backbone.context-start", "0", "--guidance", "cfg", "--train.ema-decays", "",
    ),
    "a process that learns": (
        "--process", "learned", "--adapter", "rms", "--backbone.time-embedding", "separate", "--loss", "none",
    ),
    "a second pass with gradient, and weights without rows": (
        *tiny.TOY, "--backbone.tosses", "3", "--codec", "doubled", "--data", "captioned", "--loss", "asking,drawing",
        "--process", "toy-learned",
    ),
    "a step that is left out": ("--plugin", "odd_plugin", "--loss", "nan-once", "--train.on-nan", "skip"),
    "a run that goes back": (
        "--plugin", "odd_plugin", "--loss", "nan-once", "--train.on-nan", "rollback", "--train.checkpoint-every", "2",
    ),
}  # fmt: skip
UNSCORED: Final = ("--metric", "none")
MUON: Final = ("--optimizer", "muon")
WATCHED: Final = (
    "--train.sample-every", "2", "--eval.every", "2", "--eval.samples", "15", "--sample.batch-size", "5",
    "--adapter", "rms", "--train.checkpoint-every", "1", "--train.keep-checkpoints", "10", "--metric", "fd",
)  # fmt: skip
"""Sampling and scoring in the midst of it; one process has two batches, the other one and one image less."""
THREE: Final = ("--train.steps", "3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all runs of this module."""
    folder = tmp_path_factory.mktemp("sharding")
    assert main_run(tiny.argv(folder / "from-one", *UNSCORED, *THREE)) == 0
    commands = {f"{name}/two": (*FSDP, *options) for name, options in METHODS.items()}
    commands |= {"ddp": (), "muon": (*FSDP, *MUON), "watched": (*FSDP, *WATCHED)}
    for name, first, second in (("again", FSDP, FSDP), ("to-ddp", FSDP, ()), ("to-fsdp", (), FSDP)):
        commands |= {f"{name} first": (*first, *THREE), name: second}
    commands |= {"to-one": (*FSDP, *THREE), "from-one": FSDP}
    commands = {name: (*UNSCORED, *options) for name, options in commands.items()} | {"watched": (*FSDP, *WATCHED)}
    done = several_runs.launched(
        [tiny.argv(folder / name.removesuffix(" first"), *options) for name, options in commands.items()], folder
    )
    failed = {name.removesuffix("/two"): said for name, (status, said) in zip(commands, done, strict=True) if status}
    for name in REFUSED:
        sentence = failed.pop(name)
        assert "with a loss that takes forward derivatives of the network, such as meanflow, needs PyTorch" in sentence
    assert failed == {}
    return folder


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of weights and averages."""
    assert one.keys() == other.keys()
    apart = [(one[name].float() - other[name].float()).abs().max() for name in one if not name.startswith("optimizer")]
    return float(torch.stack(apart).max())


def require_equal_losses(one: Path, other: Path) -> None:
    for line, same in zip(tiny.metrics(one), tiny.metrics(other), strict=True):
        names = [name for name in line if name in ("loss", "image", "features") or name.startswith("adapter.")]
        for name in names:
            assert same[name] == pytest.approx(line[name], rel=LOSSES), (line["step"], name)


# ------------------------------------------------------------------------------------------------------- the same run


@pytest.mark.parametrize("name", [name for name in METHODS if name not in REFUSED])
def test_it_trains_as_one_process_does(runs: Path, name: str) -> None:
    assert main_run(tiny.argv(runs / name / "one", *UNSCORED, *METHODS[name])) == 0
    require_equal_losses(runs / name / "one", runs / name / "two")
    assert differ(tiny.tensors(runs / name / "one"), tiny.tensors(runs / name / "two")) < WEIGHTS


def test_it_trains_as_copies_do(runs: Path) -> None:
    one, two = runs / "ddp", runs / "coredi with the hybrid loss" / "two"
    assert tiny.losses(one) == tiny.losses(two)
    assert differ(tiny.tensors(one), tiny.tensors(two)) < 1e-6


def test_muon_differs_by_the_rounding_of_its_half_precision(runs: Path, tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path, *UNSCORED, *MUON)) == 0
    one, two = tiny.tensors(tmp_path), tiny.tensors(runs / "muon")
    moved = differ(one, {name: torch.zeros_like(value) for name, value in one.items()})
    assert differ(one, two) < 2e-3 < moved  # 8e-4 was seen
    for line, same in zip(tiny.metrics(tmp_path), tiny.metrics(runs / "muon"), strict=True):
        assert same["loss"] == pytest.approx(line["loss"], rel=1e-2)


def test_each_process_writes_its_rows_only(runs: Path) -> None:
    folder = runs / "coredi with the hybrid loss" / "two" / "checkpoints" / "step-00000006"
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    assert len(sizes) == 8
    for stem in ("model", "ema-0", "ema-1", "optimizer"):
        parts = [sizes[f"{stem}.{rank:05d}-of-00002.safetensors"] for rank in (0, 1)]
        assert 0.8 < parts[0] / parts[1] < 1.25


def test_samples_and_scores_are_those_of_one_process(runs: Path, tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path, *WATCHED)) == 0
    for step in ("00000000", "00000002"):
        names = [folder / "samples" / f"step-{step}.png" for folder in (tmp_path, runs / "watched")]
        assert names[0].read_bytes() == names[1].read_bytes()
    one, two = (tiny.lines(folder / "evals.jsonl") for folder in (tmp_path, runs / "watched"))
    assert [line["step"] for line in two] == [line["step"] for line in one] == [2, 4, 6]
    for mine, theirs in zip(one, two, strict=True):
        assert theirs["value"] == pytest.approx(mine["value"], rel=1e-3)
    assert (runs / "watched" / "samples" / "trajectory.png").is_file()
    assert (runs / "watched" / "cost.json").read_text() == (tmp_path / "cost.json").read_text()


def test_the_session_says_how_weights_were_shared(runs: Path) -> None:
    assert [line["sharding"] for line in tiny.lines(runs / "to-ddp" / "sessions.jsonl")] == ["fsdp", "none"]
    assert [line["sharding"] for line in tiny.lines(runs / "from-one" / "sessions.jsonl")] == ["none", "fsdp"]


# -------------------------------------------------------------------------------------------------------- going on


def test_two_go_on_where_two_stopped_to_the_bit(runs: Path) -> None:
    whole = runs / "coredi with the hybrid loss" / "two"
    tiny.assert_same(tiny.tensors(runs / "again"), tiny.tensors(whole))
    assert tiny.losses(runs / "again") == tiny.losses(whole)


@pytest.mark.parametrize("name", ["to-ddp", "to-fsdp", "from-one", "to-one"])
def test_another_way_of_sharing_goes_on_from_any_checkpoint(runs: Path, name: str) -> None:
    if name == "to-one":
        assert main_run(tiny.argv(runs / name, *UNSCORED)) == 0
    whole = runs / "coredi with the hybrid loss" / "two"
    require_equal_losses(whole, runs / name)
    assert differ(tiny.tensors(runs / name), tiny.tensors(whole)) < WEIGHTS


def damaged(runs: Path, folder: Path, change: Callable[[Path], object]) -> list[str]:
    """Damages the newest checkpoint of a copy of a run; returns what is said as the one before is opened."""
    shutil.copytree(runs / "watched", folder)
    change(folder / "checkpoints" / "step-00000006")
    said: list[str] = []
    found = checkpoint.load_newest(folder / "checkpoints", said.append)
    assert found is not None
    assert found.step == 5
    return said


@pytest.mark.parametrize("stem", ["model", "ema-0", "optimizer"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_flipped_bit_in_any_piece_is_noticed(runs: Path, tmp_path: Path, stem: str, rank: int) -> None:
    name = f"{stem}.{rank:05d}-of-00002.safetensors"

    def flip(newest: Path) -> None:
        content = bytearray((newest / name).read_bytes())
        content[-5] ^= 4
        (newest / name).write_bytes(content)

    assert f"{name} differs from what was written" in damaged(runs, tmp_path / "run", flip)[0]


def test_a_missing_piece_is_named(runs: Path, tmp_path: Path) -> None:
    name = "ema-0.00001-of-00002.safetensors"
    assert f"{name} missing" in damaged(runs, tmp_path / "run", lambda newest: (newest / name).unlink())[0]


def test_a_piece_of_another_step_is_refused(runs: Path, tmp_path: Path) -> None:
    name = "model.00001-of-00002.safetensors"
    damaged(runs, tmp_path / "run", lambda newest: shutil.copy(newest.parent / "step-00000004" / name, newest / name))


def test_the_run_goes_on_from_the_one_before_and_ends_the_same(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    name = "optimizer.00000-of-00002.safetensors"
    damaged(runs, tmp_path / "run", lambda newest: (newest / name).write_bytes(b""))
    assert main_run(tiny.argv(tmp_path / "run", *WATCHED)) == 0
    assert "falling back to the one before" in capsys.readouterr().out
    assert differ(tiny.tensors(tmp_path / "run"), tiny.tensors(runs / "watched")) < WEIGHTS


# ------------------------------------------------------------------------------------------------------- one process


def test_one_process_samples_from_a_run_that_was_shared_out(runs: Path, tmp_path: Path) -> None:
    images: list[Tensor] = []
    for number, run in enumerate((runs / "ddp", runs / "coredi with the hybrid loss" / "two")):
        out = tmp_path / f"{number}.npz"
        assert main_vco(["sample", str(run), "--out", str(out), "--num", "20", "--seed", "3"]) == 0
        images.append(torch.from_numpy(np.load(out)["images"]))
    assert len(images[0]) == 20
    assert torch.equal(images[0], images[1])  # of averages that differ by 1e-7


def test_it_is_exported_and_begun_with(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    run = runs / "coredi with the hybrid loss" / "two"
    assert main_vco(["export", str(run), "--out", str(tmp_path / "exported")]) == 0
    ours, theirs = open_run(run).model.state_dict(), open_run(tmp_path / "exported").model.state_dict()
    tiny.assert_same(dict(ours), dict(theirs))
    capsys.readouterr()
    options = ("--from", str(run), "--train.steps", "1", "--metric", "none")
    assert main_run([*tiny.argv(tmp_path / "new", *options), "--dry-run"]) == 0
    assert main_run(tiny.argv(tmp_path / "new", *options)) == 0
    assert f"begun with the first running average of step 6 of {run}" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- refusals


def test_processes_that_do_not_see_each_others_files_are_refused(tmp_path: Path) -> None:
    """The folder of process 1 is another one, as on a disk of its own."""
    (tmp_path / "talk").mkdir()
    command = tiny.argv(tmp_path / "node-RANK", *FSDP)
    ((status, said),) = several_runs.launched([command], tmp_path / "talk")
    assert status == 2
    assert said.startswith(f"vco-run: process 1: the run folder {tmp_path / 'node-1'} is not that of process 0; with")
    assert said.count("\n") == 1
    assert not (tmp_path / "node-0" / "checkpoints").exists()


def test_an_outline_reads_names_and_shapes_only(runs: Path) -> None:
    outline = checkpoint.outline(runs / "watched" / "checkpoints", 6).tensors
    whole = checkpoint.load_step(runs / "watched" / "checkpoints", 6).tensors
    assert outline.keys() == whole.keys()
    for stem, tensors in outline.items():
        assert {name: tuple(value.shape) for name, value in tensors.items()} == {
            name: tuple(value.shape) for name, value in whole[stem].items()
        }
        assert all(value.is_meta for value in tensors.values())


def test_a_run_without_such_a_checkpoint_says_which_there_are(runs: Path) -> None:
    with pytest.raises(UserError, match="there are those of steps 1, 2, 3, 4, 5, 6"):
        checkpoint.load_step(runs / "watched" / "checkpoints", 9)
