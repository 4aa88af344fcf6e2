"""Components of others that do not keep the contract end a run with a sentence about them, not with a traceback."""

from pathlib import Path

import pytest
import tiny

from vco.cli import main_run
from vco.errors import UserError
from vco.run import assemble

ODD = ("--plugin", "odd_plugin")
UNFIT = {
    "a constructor of another design": (
        "loss",
        "of-another-time",
        "TypeError: ",
        "takes 2 positional arguments but 3 were given",
    ),
    "an exception in the constructor": ("loss", "fragile", "KeyError: 'a key'"),
    "an exception of two lines": ("solver", "wordy", "ValueError: one line and another"),
    "an attribute that is missing": ("data", "shapeless", "AttributeError: image_shape"),
}


@pytest.mark.parametrize("why", UNFIT)
def test_what_cannot_be_built_is_named_with_its_plugin_and_the_error(
    why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section, name, *words = UNFIT[why]
    assert main_run(tiny.argv(tmp_path / "run", *ODD, f"--{section}", name)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vco-run: {section} {name} (from --{section}) of --plugin odd_plugin cannot be built: ")
    assert line.endswith("; `vco check odd_plugin` tells more")
    assert all(word in line for word in words)
    assert not (tmp_path / "run").exists()


def test_the_error_itself_is_kept_as_the_cause(tmp_path: Path) -> None:
    invocation = tiny.invocation(tmp_path, *ODD, "--loss", "fragile")
    with pytest.raises(UserError) as caught:
        assemble(invocation.config, invocation.catalog)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_option_that_no_file_can_hold_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a run would train, and its config.yaml could not be read again."""
    assert main_run(tiny.argv(tmp_path / "run", *ODD, "--loss", "new-author")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "vco-run: loss.new-author.folder: new-author declares it as <class 'pathlib.Path'>, which no configuration "
        "file can hold; its author has to use bool, int, float, str, Literal, X | None, tuple[X, ...] or "
        "Mapping[str, X]"
    )
    assert not (tmp_path / "run").exists()


TERMS = {
    "per-token": "loss per-token gave the term 'each' as of shape (20, 1, 8, 8), and a term is a tensor with one "
    "number per sample ((20,)) or a single number (()): its author has to mend that",
    "numberless": "loss numberless gave the term 'half' as a float, and a term is a tensor with one number per sample "
    "((20,)) or a single number (()): its author has to mend that",
    "peeking": "loss peeking reads encoder features and does not declare needs_features = True: its author has to add "
    "that",
}


@pytest.mark.parametrize("loss", TERMS)
def test_a_loss_that_breaks_its_contract_in_training_is_said_in_one_sentence(
    loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run(tiny.argv(tmp_path, *ODD, "--loss", loss)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("vco-run: ")] == [f"vco-run: {TERMS[loss]}"]
    assert not any("Traceback" in line for line in lines)


def test_a_parameter_without_a_gradient_ends_the_first_step_of_every_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data-parallel training would wait for it, so that a single process must not go on either."""
    sentence = (
        "vco-run: training stopped: no gradient reaches the parameter head.weight of loss idle-head; its plugin has to "
        "give it one in every step, or requires_grad_(False)"
    )
    options = (*ODD, "--loss", "idle-head", "--train.accumulation", "2", "--train.samples-per-class", "0")
    assert main_run(tiny.argv(tmp_path, *options)) == 1
    assert capsys.readouterr().err.splitlines()[-1] == sentence
    assert not (tmp_path / "checkpoints").exists()


def test_a_loss_that_is_off_needs_no_gradient(tmp_path: Path) -> None:
    options = ("--loss", "repa", "--loss.block", "1", "--loss.stop-after", "0", "--train.steps", "2")
    tiny.train(tmp_path, *options)
    assert [set(line) & {"repa"} for line in tiny.metrics(tmp_path)] == [set(), set()]
