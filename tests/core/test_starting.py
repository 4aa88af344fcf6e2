"""Runs that begin with other weights: what is taken, what is not, and what is said about it."""

import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
import tiny
import torch
import yaml
from torch import Tensor

from vco.cli import main_run
from vco.errors import UserError
from vco.folder import RunFolder
from vco.storage import checkpoint
from vco.training import loop
from vco.training.matching import match

Capture = pytest.CaptureFixture[str]
FOUND, EXPECTED = ({"features.digits-vit": digit * 64} for digit in "ab")
RMS = ("--adapter", "rms", "--loss", "none")


def finish(folder: Path, *options: str) -> Path:
    """A run of two steps whose first average differs from everything else; its folder."""
    training = tiny.prepare(folder, *options, "--train.steps", "2", "--train.checkpoint-every", "1")
    tiny.scramble(training, 1)
    for average in training.ema.averages[:1]:
        average.update({name: value.clone() for name, value in training.objective.state_dict().items()})
    training.train()
    RunFolder(folder).record(tiny.invocation(folder, *options), training.run.facts)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the default recipe with an alignment loss that has weights."""
    return finish(tmp_path_factory.mktemp("other"), "--loss", "repa,hybrid", "--loss.repa.block", "1")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose adapter was fitted."""
    return finish(tmp_path_factory.mktemp("fitted"), *RMS)


def begin(folder: Path, source: Path | str, *options: str, capsys: Capture) -> tuple[tiny.Training, list[str]]:
    """A new run with --from, and what it says of it."""
    capsys.readouterr()
    training = tiny.prepare(folder, "--from", str(source), *options)
    return training, capsys.readouterr().out.splitlines()


def saved(folder: Path, weights: str = "ema-0", step: int = 2) -> dict[str, Tensor]:
    return dict(checkpoint.load_step(folder / "checkpoints", step).tensors[weights])


def test_it_begins_with_the_first_average_of_the_other_run(other: Path, tmp_path: Path, capsys: Capture) -> None:
    training, lines = begin(tmp_path, other, "--loss", "repa,hybrid", "--loss.repa.block", "1", capsys=capsys)
    state, expected = training.objective.state_dict(), saved(other)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert lines == [f"begun with the first running average of step 2 of {other} ({len(expected)} tensors)"]
    assert training.step == 0


def test_its_own_averages_begin_there_too(other: Path, tmp_path: Path, capsys: Capture) -> None:
    training, _ = begin(tmp_path, other, capsys=capsys)
    for average in training.ema.averages:
        assert all(torch.equal(average[name], value) for name, value in training.objective.state_dict().items())


def test_a_step_can_be_named(other: Path, tmp_path: Path, capsys: Capture) -> None:
    training, lines = begin(tmp_path, f"{other}@1", capsys=capsys)
    state, expected = training.objective.state_dict(), saved(other, step=1)
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert "of step 1 of" in lines[0]


def test_a_run_without_averages_gives_its_last_weights(tmp_path: Path, capsys: Capture) -> None:
    finish(tmp_path / "a", *tiny.ONE_STREAM, "--train.ema-decays", "")
    training, lines = begin(tmp_path / "b", tmp_path / "a", *tiny.ONE_STREAM, capsys=capsys)
    expected = saved(tmp_path / "a", "model")
    assert all(torch.equal(value, expected[name]) for name, value in training.objective.state_dict().items())
    assert lines[0].startswith("begun with the last weights of step 2")


def test_components_of_the_other_run_alone_are_left_out_and_named(other: Path, tmp_path: Path, capsys: Capture) -> None:
    _, lines = begin(tmp_path, other, "--loss", "hybrid", capsys=capsys)
    assert lines[1:] == ["left out of it: loss repa"]


def test_components_of_the_new_run_alone_keep_their_initial_weights_and_are_named(
    fitted: Path, tmp_path: Path, capsys: Capture
) -> None:
    more = ("--adapter", "rms", "--loss", "repa", "--loss.block", "1")
    fresh = tiny.not_begun(tmp_path / "fresh", *more).objective.state_dict()
    training, lines = begin(tmp_path / "run", fitted, *more, capsys=capsys)
    assert "not in it, so with initial weights: loss repa" in lines
    state = training.objective.state_dict()
    names = [name for name in state if name.startswith("losses.repa.")]
    assert names
    assert all(torch.equal(state[name], fresh[name]) for name in names)


def test_an_adapter_that_came_with_weights_is_not_fitted_again(
    fitted: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*given: object, **named: object) -> None:
        raise AssertionError("it was fitted")

    monkeypatch.setattr(loop, "fit_adapter", fit)
    training, _ = begin(tmp_path, fitted, *RMS, capsys=capsys)
    assert torch.equal(training.objective.state_dict()["adapter.mean"], saved(fitted)["adapter.mean"])


def with_changes(run: Path, folder: Path, config: Any = None, facts: Any = None) -> Path:
    """A copy of a run's folder whose files say something else."""
    shutil.copytree(run, folder)
    for name, change in (("config.yaml", config), ("facts.yaml", facts)):
        plain = yaml.safe_load((folder / name).read_text())
        if change is not None:
            change(plain)
        (folder / name).write_text(yaml.safe_dump(plain))
    return folder


@pytest.mark.parametrize(
    ("config", "facts", "why"),
    [
        (lambda plain: plain["adapter"].update(per="channel"), None, "rms of digits-vit (--adapter.per channel)"),
        (lambda plain: plain["features"][0].update(name="other"), None, "rms of other"),  # which is not installed
        (None, lambda plain: plain["contents"].update(FOUND), "rms of digits-vit (other weights of digits-vit)"),
    ],
)
def test_what_an_adapter_has_measured_of_other_features_is_not_taken(
    config: Any, facts: Any, why: str, fitted: Path, tmp_path: Path, capsys: Capture
) -> None:
    copied = with_changes(fitted, tmp_path / "copied", config, facts)
    training = tiny.not_begun(tmp_path / "run", *RMS, "--from", str(copied))
    training.run = attrs.evolve(training.run, facts=attrs.evolve(training.run.facts, contents=EXPECTED))
    capsys.readouterr()
    training.begin()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "not in it, so with initial weights: adapter rms of digits-vit",
        f"left out of it: adapter {why}",
    ]
    assert torch.count_nonzero(training.objective.state_dict()["adapter.mean"])  # it was fitted


def test_a_part_of_the_network_that_is_new_keeps_its_initial_weights(tmp_path: Path, capsys: Capture) -> None:
    finish(tmp_path / "a", *tiny.ONE_STREAM)
    until = (*tiny.ONE_STREAM[:-1], "meanflow", "--solver", "meanflow")
    training, lines = begin(tmp_path / "b", tmp_path / "a", *until, capsys=capsys)
    assert "not in it, so with initial weights: backbone.gap" in lines
    expected = saved(tmp_path / "a")
    assert all(torch.equal(training.objective.state_dict()[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--backbone.depth", "3"),
            r"blocks\.2\.\S+ is missing there and \[.*\] here; that run has --backbone\.depth 2",
        ),
        (("--backbone.width", "32"), r"is \[8\] there and \[16\] here; that run has --backbone\.width 16"),
        (("--adapter.channels", "4"), r"that run has --adapter\.channels 8"),
        (("--backbone", "jit-joint", "--guidance", "cfg"), r"there and missing here|is missing there"),
    ],
)
def test_shapes_that_differ_are_one_sentence_with_the_options_of_the_other_run(
    options: tuple[str, ...], sentence: str, other: Path, tmp_path: Path
) -> None:
    training = tiny.not_begun(tmp_path, "--from", str(other), *options)
    before = {name: value.clone() for name, value in training.objective.state_dict().items()}
    with pytest.raises(UserError, match=sentence) as caught:
        training.begin()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in training.objective.state_dict().items())


def test_other_classes_are_one_sentence_with_their_number(tmp_path: Path, other: Path) -> None:
    training = tiny.not_begun(tmp_path / "run", "--from", str(other))
    facts = yaml.safe_load((other / "facts.yaml").read_text())
    weights = {n: t[:-3] if n == "backbone.conditioning.label.weight" else t for n, t in saved(other).items()}
    copied = tmp_path / "copied"
    copied.mkdir()
    content = checkpoint.Checkpoint(step=1, tensors={"ema-0": weights}, state={"ema_decays": [0.9]})
    checkpoint.write(copied / "checkpoints", content)
    (copied / "config.yaml").write_text((other / "config.yaml").read_text())
    (copied / "facts.yaml").write_text(yaml.safe_dump({**facts, "num_classes": 7}))
    training = tiny.not_begun(tmp_path / "run", "--from", str(copied))
    with pytest.raises(
        UserError, match=r"label\.weight is \[8, 16\] there and \[11, 16\] here; that run has 7 classes"
    ):
        training.begin()


def test_what_is_no_run_or_has_no_such_checkpoint_is_one_sentence(other: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text((other / "config.yaml").read_text())
    (tmp_path / "file.pth").write_text("hello")
    for source, sentence in (
        (f"{other}@7", r"there is no checkpoint of step 7 in .*; there are those of steps 1, 2"),
        (str(tmp_path / "nowhere"), "nowhere is neither the folder of a run nor a file of weights"),
        (str(tmp_path), "is neither the folder of a run nor a file of weights"),
        (str(empty), "has no checkpoint yet; let it train first"),
        (str(tmp_path / "file.pth"), "is no file of weights, or it is damaged"),
    ):
        with pytest.raises(UserError, match=sentence):
            tiny.prepare(tmp_path / "run", "--from", source)


def test_a_run_that_goes_on_does_not_look_at_it_again(other: Path, tmp_path: Path) -> None:
    options = ("--train.steps", "1", "--from", str(other))
    ended = tiny.train(tmp_path, *options)
    again = tiny.prepare(tmp_path, "--train.steps", "1", "--from", "nowhere")
    assert again.step == 1
    tiny.assert_same(dict(again.objective.state_dict()), dict(ended.objective.state_dict()))


def test_a_part_is_a_module_of_a_component() -> None:
    one = torch.zeros(1)
    own = {"backbone.blocks.0.a": one, "backbone.gap.a": one, "losses.repa.head.a": one, "losses.repa.other": one}
    theirs = {"backbone.blocks.0.a": one + 1, "losses.repa.head.a": one, "guidance.token": one}
    found = match(own, theirs)
    assert found.taken.keys() == {"backbone.blocks.0.a", "losses.repa.head.a"}
    assert found.initial == ("backbone.gap", "losses.repa.other")
    assert found.left_out == ("guidance.token",)
    with pytest.raises(UserError, match=r"^backbone\.blocks\.1\.a is \[1\] there and missing here$"):
        match(own, {**theirs, "backbone.blocks.1.a": one})


def spoilt(tmp_path: Path) -> Path:
    (tmp_path / "file.pth").write_text("hello")
    return tmp_path / "file.pth"


def of_others(tmp_path: Path) -> Path:
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "file.pth")
    return tmp_path / "file.pth"


REFUSED: Any = {
    "nothing": (lambda other, at: "nowhere", (), "nowhere is neither the folder of a run nor a file of weights"),
    "no such step": (lambda other, at: f"{other}@7", (), "there is no checkpoint of step 7 in"),
    "a spoilt file": (lambda other, at: spoilt(at), (), "is no file of weights, or it is damaged"),
    "another file": (
        lambda other, at: of_others(at),
        (),
        "does not fit backbone jit-dual of this run: the file is none",
    ),
    "another width": (lambda other, at: other, ("--backbone.width", "32"), "that run has --backbone.width 16"),
    "the Hub": (lambda other, at: "hf://me/none@3", (), "hf://me/none cannot be fetched (HF_HUB_OFFLINE is set, and"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_source_that_cannot_be_taken_is_seen_by_a_dry_run_and_leaves_no_folder(
    what: str, other: Path, tmp_path: Path, capsys: Capture
) -> None:
    make, options, sentence = REFUSED[what]
    argv = tiny.argv(tmp_path / "runs" / "new", "--from", str(make(other, tmp_path)), *options)
    assert main_run([*argv, "--dry-run"]) == 3
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("to train, still needed: "))
    assert told.startswith("to train, still needed: --from: ")
    assert sentence in told
    assert main_run(argv) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("vco-run: "))
    assert sentence in line
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_is_content_with_a_source_that_fits(other: Path, tmp_path: Path, capsys: Capture) -> None:
    for source in (other, f"{other}@2"):
        assert main_run(tiny.argv(tmp_path / "run", "--from", str(source), "--dry-run")) == 0
    assert not (tmp_path / "run").exists()


def test_a_newest_checkpoint_that_is_damaged_is_passed_over_before_and_in_the_run(
    other: Path, tmp_path: Path, capsys: Capture
) -> None:
    copied = Path(shutil.copytree(other, tmp_path / "copied"))
    (copied / "checkpoints" / "step-00000002" / "ema-0.safetensors").write_bytes(b"cut")
    assert main_run(tiny.argv(tmp_path / "run", "--from", str(copied), "--train.steps", "1")) == 0
    assert f"begun with the first running average of step 1 of {copied}" in capsys.readouterr().out


def test_a_run_that_is_refused_after_it_has_its_folder_leaves_none(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object) -> None:
        raise UserError("the weights are spoilt")

    monkeypatch.setattr("vco_plugins.features.digits_vit.DigitsViT.load", load)
    (tmp_path / "mine").mkdir()
    for folder in ("mine/runs/new", "mine"):
        assert main_run(tiny.argv(tmp_path / folder)) == 2
        assert "the weights are spoilt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.name != ".lock"] == ["mine"]
