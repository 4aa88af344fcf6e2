"""`vco data check`: everything that is unreadable or odd is found before a run depends on it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vco.cli import main_vco

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of five images in both parts."""
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("circle", "square"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(5):
                pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_a_sound_folder_is_described(root: Path, capsys: Capture) -> None:
    (root / "train" / "circle" / "0.png").unlink()
    assert main_vco(["data", "check", str(root)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 classes, images of 3x8x8",
        "train: 9 images; 4 of the rarest class (circle), 5 of the most frequent (square)",
        "held-out: 10 images; 5 of the rarest class (circle), 5 of the most frequent (circle)",
        "nothing is odd",
    ]


def test_unreadable_images_are_named_and_make_the_status_1(root: Path, capsys: Capture) -> None:
    for place in ("train/circle/1.png", "val/square/2.png"):
        (root / place).write_bytes(b"no image")
    assert main_vco(["data", "check", str(root)]) == 1
    out = capsys.readouterr().out
    assert "2 cannot be read:" in out
    assert "train image 1 (circle): The image " in out
    assert "val/square/2.png cannot be read" in out


def test_twins_and_flat_images_are_named(root: Path, capsys: Capture) -> None:
    whole = (root / "train" / "circle" / "1.png").read_bytes()
    (root / "val" / "circle" / "0.png").write_bytes(whole)
    (root / "train" / "square" / "3.png").write_bytes((root / "train" / "square" / "4.png").read_bytes())
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(root / "val" / "square" / "1.png")
    assert main_vco(["data", "check", str(root)]) == 0
    out = capsys.readouterr().out
    assert "1 of the held-out images is a training image too (equal pixels): scores flatter" in out
    assert "train image 1 (circle) = held-out image 0 (circle)" in out
    assert "1 more is there twice (equal pixels):\n  train image 8 (square) = train image 9 (square)" in out
    assert "1 is of a single color:\n  held-out image 6 (square)" in out


def test_several_findings_are_plural(root: Path, capsys: Capture) -> None:
    for number in range(2):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(root / "val" / "square" / f"{number}.png")
    assert main_vco(["data", "check", str(root)]) == 0
    assert "2 are of a single color:" in capsys.readouterr().out


def test_mixed_sizes_are_said(root: Path, capsys: Capture) -> None:
    draws = np.random.default_rng(1)
    for number, (width, height) in enumerate([(16, 12), (6, 20), (32, 32)]):
        pixels = draws.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train" / "circle" / f"{number}.png")
    assert main_vco(["data", "check", str(root), "--data.size", "8"]) == 0
    *_, sizes, end = capsys.readouterr().out.splitlines()
    assert sizes == (
        "the picture files have 4 sizes, from 8x8 to 32x32 pixels, and are resized and cropped to 8x8; 1 is smaller "
        "and enlarged for that"
    )
    assert end == "nothing is odd"
    assert main_vco(["data", "check", str(root), "--data", "digits"]) == 2


def test_one_size_that_is_not_the_images_is_said_too(root: Path, capsys: Capture) -> None:
    assert main_vco(["data", "check", str(root), "--data.size", "4"]) == 0
    assert "the picture files are all 8x8, and are resized and cropped to 4x4\n" in capsys.readouterr().out


def test_options_of_the_data_set_are_taken(root: Path, capsys: Capture) -> None:
    assert main_vco(["data", "check", str(root), "--data.size", "4"]) == 0
    assert "images of 3x4x4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["/nowhere"], "data image-folder: There is no folder and no zip file /nowhere (from --data.root)"),
        (["ROOT", "--data.classes", "3"], "has 2 classes with images, but --data.classes is 3"),
        (["ROOT", "--data.nope", "3"], "data.nope: unknown option"),
        (["ROOT", "--data", "digits"], "data.root: unknown option"),
    ],
)
def test_what_cannot_be_looked_at_is_one_sentence(argv: list[str], sentence: str, root: Path, capsys: Capture) -> None:
    assert main_vco(["data", "check", *(str(root) if part == "ROOT" else part for part in argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vco data: ")
    assert sentence in line
