"""Two gloo processes against one; each launch takes about ten seconds, so all tests here share one."""

import json
import shutil
from pathlib import Path

import pytest
import tiny

from vco.cli import main_run

pytestmark = pytest.mark.slow

TOLERANCE = 1e-6
"""Relative difference of losses: float32 sums in another order; 2.4e-7 was seen over 120 steps."""
EVERY_STEP = ("--train.checkpoint-every", "1", "--train.keep-checkpoints", "10")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run by one process and by two."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("one", "two")}
    done = tiny.launch(*tiny.argv(folders["two"], *EVERY_STEP))
    assert done.returncode == 0, done.stderr
    assert main_run(tiny.argv(folders["one"], *EVERY_STEP)) == 0
    return folders


def test_two_processes_have_the_losses_of_one(both: dict[str, Path]) -> None:
    one, two = (tiny.metrics(both[name]) for name in ("one", "two"))
    assert [line["step"] for line in two] == list(range(1, tiny.STEPS + 1))
    for name in ("loss", "image", "features", "hybrid", "adapter.cov"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=TOLERANCE), name


def test_two_processes_end_with_the_weights_of_one(both: dict[str, Path]) -> None:
    one, two = (tiny.tensors(both[name]) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name.startswith("model/"):
            # Adam's first steps divide a rounded gradient by its own size: absolute, against steps of 2e-3
            assert (two[name] - value).abs().max() < 1e-4, name


def test_two_processes_sample_and_score_what_one_does(both: dict[str, Path]) -> None:
    one, two = (json.loads((both[name] / "eval.json").read_text()) for name in ("one", "two"))
    # the encoder's float32 convolutions round differently in batches of another size
    assert two["real_value"] == pytest.approx(one["real_value"], rel=TOLERANCE)
    # sampled from weights that differ by rounding; an image has 256 levels, so a few pixels jump by one
    assert two["value"] == pytest.approx(one["value"], rel=1e-3)
    pictures = [(both[name] / "samples" / "step-00000000.png").read_bytes() for name in ("one", "two")]
    assert pictures[0] == pictures[1]


def test_one_process_goes_on_where_two_stopped(both: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(both["two"] / "checkpoints" / "step-00000003", tmp_path / "checkpoints" / "step-00000003")
    tiny.train(tmp_path)
    expected = {line["step"]: line["loss"] for line in tiny.metrics(both["two"])}
    for line in tiny.metrics(tmp_path):
        assert line["loss"] == pytest.approx(expected[line["step"]], rel=TOLERANCE)
    assert len(tiny.metrics(tmp_path)) == 3


def test_what_is_drawn_for_a_sample_does_not_depend_on_the_process_that_has_it(tmp_path: Path) -> None:
    """A network, losses and a codec that draw, times of tokens, captions, and a process that learns its times."""
    options = (
        *tiny.TOY, "--backbone.tosses", "3", "--codec", "doubled", "--data", "captioned", "--loss", "asking,drawing",
        "--metric", "brightness",
    )  # fmt: skip
    for process in ("toy-tokens", "toy-learned"):
        asked = (*options, "--process", process)
        done = tiny.launch(*tiny.argv(tmp_path / process / "two", *asked))
        assert done.returncode == 0, done.stderr
        assert main_run(tiny.argv(tmp_path / process / "one", *asked)) == 0
        one, two = (tiny.metrics(tmp_path / process / name) for name in ("one", "two"))
        for name in ("loss", "image", "asking", "drawing.prepared", "drawing.forward"):
            assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-5), name
        scores = [json.loads((tmp_path / process / name / "eval.json").read_text()) for name in ("one", "two")]
        assert scores[1]["value"] == pytest.approx(scores[0]["value"], abs=0.05)  # of 256 gray levels
        assert scores[1]["images"] == scores[0]["images"] == 20


@pytest.mark.parametrize("loss", ["hybrid", "drifting"])
def test_class_groups_may_be_split_over_processes(loss: str, tmp_path: Path) -> None:
    """Groups of 10 images in a batch of 20 in two accumulation steps: each process has a half of every group."""
    options = ("--train.samples-per-class", "10", "--train.accumulation", "2", "--loss", loss, "--metric", "none")
    done = tiny.launch(*tiny.argv(tmp_path / "two", *options))
    assert done.returncode == 0, done.stderr
    assert main_run(tiny.argv(tmp_path / "one", *options)) == 0
    one, two = (tiny.metrics(tmp_path / name) for name in ("one", "two"))
    for name in ("loss", "image", loss):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=TOLERANCE), name
    one, two = (tiny.tensors(tmp_path / name) for name in ("one", "two"))
    assert max(float((two[name] - one[name]).abs().max()) for name in one if name.startswith("model/")) < 1e-4


def test_a_batch_that_cannot_be_shared_is_refused_with_one_sentence(tmp_path: Path) -> None:
    options = ("--train.samples-per-class", "4", "--train.accumulation", "2")
    done = tiny.launch(*tiny.argv(tmp_path / "run", *options))
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("vco-run:")]
    assert len(said) == 1
    assert "5 class groups of a batch cannot be shared evenly by 2 processes x 2 accumulation steps" in said[0]
    assert not (tmp_path / "run").exists()
