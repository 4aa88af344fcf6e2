"""Messages name the options of the section under which an encoder was chosen, whichever that is."""

from pathlib import Path

import pytest
import tiny
import torch
from tiny_encoders import CASES, SIDE

from vco.cli import main_run

SECTIONS = ("features", "evaluator")
OTHER = {"features": "evaluator", "evaluator": "features"}
ON_THE_GRID = {"dinov2": 56, "dinov3": 64, "siglip": 64, "siglip2": 64, "mae": 64, "clip": 56, "timm": 56}
"""Resolutions at which the default weights have 4 x 4 patches, as the network has for digits."""


@pytest.fixture(autouse=True)
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What a run says that cannot begin, in one line."""
    assert main_run(tiny.argv(folder / "run", *options)) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("vco-run: "))
    return line.removeprefix("vco-run: ")


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", ON_THE_GRID)
def test_missing_weights(name: str, section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(tmp_path, capsys, f"--{section}", name, f"--{section}.resolution", str(ON_THE_GRID[name]))
    assert line.startswith(f"{section} {name}: the weights are missing")
    assert f"give --{section}.weights FOLDER" in line
    assert f"--{OTHER[section]}" not in line


@pytest.mark.parametrize("file", ["", "/nope.pth"])
def test_missing_weights_of_inception(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(tmp_path, capsys, "--evaluator", "inception", f"--evaluator.weights={file}")
    assert line.startswith("evaluator inception: the weights are missing: no file ")
    assert "give --evaluator.weights FILE" in line


@pytest.mark.parametrize("section", SECTIONS)
def test_what_the_constructor_refuses(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(tmp_path, capsys, f"--{section}", "dinov2", f"--{section}.resolution", "57")
    assert line.startswith(f"{section} dinov2 (from --{section}): --{section}.resolution 57 is not a multiple")


@pytest.mark.parametrize("section", SECTIONS)
def test_damaged_weights(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if case.id == "dinov2")
    case.save(tmp_path)
    weights = tmp_path / case.weights
    weights.write_bytes(weights.read_bytes()[:-1000])
    options = ("--{}", "dinov2", "--{}.weights", str(tmp_path), "--{}.resolution", str(SIDE))
    line = refused(tmp_path, capsys, *(option.format(section) for option in options))
    assert line.startswith(f"{section} dinov2: The weights in {tmp_path} cannot be loaded")
    assert "--" not in line


def test_whatever_an_encoder_raises_while_it_loads_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object) -> None:
        raise RuntimeError("size mismatch for patch.weight")

    monkeypatch.setattr("vco_plugins.features.digits_cnn.DigitsCNN.load", load)
    line = refused(tmp_path, capsys, "--evaluator", "digits-cnn")
    assert line == "evaluator digits-cnn cannot be loaded: RuntimeError: size mismatch for patch.weight"
