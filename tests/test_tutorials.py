"""The commands of the tutorials run, in small; those that need ImageNet or a cluster are marked as not to be run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vco.cli import main_run, main_vco

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("tutorials/first_run", "tutorials/your_own_images", "tutorials/cluster", "comparing", "reading_a_report")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = {
    "train.batch-size": "20", "train.samples-per-class": "2", "train.fit-samples": "60", "train.log-every": "1",
    "sample.steps": "1", "sample.grid-rows": "1", "eval.samples": "20", "backbone.width": "16", "backbone.depth": "2",
    "backbone.heads": "2", "backbone.context-start": "1", "mixed-precision": "fp32",
}  # fmt: skip
"""What is added to a training, if it does not say another value that matters."""
STATUS = {"--preset imagenet256-b16 --dry-run": 3}
"""Commands that are meant to end with another status than 0."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photographs: sixty in each of two classes."""
    draws = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            pixels = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def commands(text: str) -> list[str]:
    """The lines of a block, those that end with a backslash joined."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in joined if line.strip()]


def small(arguments: list[str], number: int) -> list[str]:
    """A training of a few steps, more of them with each command."""
    if "--dry-run" in arguments:
        return arguments
    steps = ["--train.steps", str(2 + number)]
    if arguments and not arguments[0].startswith("-"):  # it goes on with its own settings
        return [part for part in arguments if part not in ("--train.steps", "1200")] + steps
    sizes = {
        name: value for name, value in SMALL.items() if name != "train.samples-per-class" or "--data" not in arguments
    }
    added = [part for name, value in sizes.items() for part in (f"--{name}", value)]
    return [*arguments, *added, *steps]


def run(command: str, number: int, photos: Path) -> None:
    """Runs a command of a page, and fails unless it ends as it should."""
    program, *arguments = shlex.split(command.replace("/data/photos", str(photos)))
    wanted = next((status for part, status in STATUS.items() if part in command), 0)
    if program == "vco-run":
        assert main_run(small(arguments, number)) == wanted, command
    else:
        assert program == "vco", command
        assert main_vco(arguments) == wanted, command


@pytest.mark.slow  # a tutorial trains several times
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_tutorial_run(
    page: str, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text())
    assert blocks
    number = 0
    for language, text in blocks:
        if language == "python":
            exec(compile(text, page, "exec"), {})  # what the page shows, and nothing else
            continue
        for command in commands(text):
            number += 1
            run(command, number, photos)
