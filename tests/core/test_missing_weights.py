"""Messages name the options of the place in which an encoder was chosen: in --features, or for a metric."""

from pathlib import Path

import pytest
import tiny
import torch
from tiny_encoders import CASES, SIDE

from vco.cli import main_run

PLACES = ("features", "metric.fd")
"""Where an encoder is chosen."""
ON_THE_GRID = {"dinov2": 56, "dinov3": 64, "siglip": 64, "siglip2": 64, "mae": 64, "clip": 56, "timm": 56}
"""Resolutions at which the default weights have 4 x 4 patches, as the network has for digits."""


@pytest.fixture(autouse=True)
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def chosen(place: str, name: str, **options: str) -> tuple[tuple[str, ...], str, str]:
    """Options that choose an encoder somewhere, how messages call it, and how its options begin."""
    if place == "features":
        argv, title, prefix = ("--features", name), f"features {name}", "--features"
    else:
        argv, title, prefix = ("--metric", f"fd={name}"), f"metric fd's encoder {name}", f"--metric.fd.{name}"
    given = tuple(part for option, value in options.items() for part in (f"{prefix}.{option}", value))
    return (*argv, *given), title, prefix


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What a run says that cannot begin, in one line."""
    assert main_run(tiny.argv(folder / "run", *options)) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("vco-run: "))
    return line.removeprefix("vco-run: ")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ON_THE_GRID)
def test_missing_weights(name: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, title, prefix = chosen(place, name, resolution=str(ON_THE_GRID[name]))
    line = refused(tmp_path, capsys, *options)
    assert line.startswith(f"{title}: the weights are missing")
    assert f"give {prefix}.weights FOLDER" in line
    assert ("--metric" if place == "features" else "--features") not in line


@pytest.mark.parametrize("file", ["", "/nope.pth"])
def test_missing_weights_of_inception(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(tmp_path, capsys, "--metric", "fd=inception", f"--metric.fd.inception.weights={file}")
    assert line.startswith("metric fd's encoder inception: the weights are missing: no file ")
    assert "give --metric.fd.inception.weights FILE" in line


@pytest.mark.parametrize("place", PLACES)
def test_what_the_constructor_refuses(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, title, prefix = chosen(place, "dinov2", resolution="57")
    line = refused(tmp_path, capsys, *options)
    section = place.partition(".")[0]
    assert line.startswith(f"{title} (from --{section}): {prefix}.resolution 57 is not a multiple")


@pytest.mark.parametrize("place", PLACES)
def test_damaged_weights(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if case.id == "dinov2")
    case.save(tmp_path)
    weights = tmp_path / case.weights
    weights.write_bytes(weights.read_bytes()[:-1000])
    options, title, _ = chosen(place, "dinov2", weights=str(tmp_path), resolution=str(SIDE))
    line = refused(tmp_path, capsys, *options)
    assert line.startswith(f"{title}: The weights in {tmp_path} cannot be loaded")
    assert "--" not in line


def test_whatever_an_encoder_raises_while_it_loads_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object) -> None:
        raise RuntimeError("size mismatch for patch.weight")

    monkeypatch.setattr("vco_plugins.features.digits_cnn.DigitsCNN.load", load)
    line = refused(tmp_path, capsys, "--metric", "fd=digits-cnn")
    assert line == "metric fd's encoder digits-cnn cannot be loaded: RuntimeError: size mismatch for patch.weight"
