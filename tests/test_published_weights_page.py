"""The commands of docs/published_weights.md run, in small: the checkpoint is the golden file."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from parity.published_files import OFFICIAL, content_of, options_for
from PIL import Image

from vco.cli import main_run, main_vco

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "published_weights.md").read_text()
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = {
    "train.batch-size": 14, "train.samples-per-class": 2, "train.fit-samples": 14, "train.steps": 2, "train.workers": 0,
    "sample.batch-size": 4, "sample.grid-rows": 1, "metric": "none", "loss": "none", "mixed-precision": "fp32",
}  # fmt: skip
"""What is added to a training."""


def write_images(folder: Path) -> None:
    draws = np.random.default_rng(0)
    for path in (folder / part / f"class{n}" / f"{i}.png" for part in ("train", "val") for n in range(7) for i in "ab"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)


def write_encoder(folder: Path) -> None:
    """A DINOv2 as wide as the golden file's, with a single block."""
    sizes: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 1}
    config = transformers.Dinov2WithRegistersConfig(**sizes, patch_size=14, image_size=224, num_register_tokens=4)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)


@pytest.mark.slow  # it trains
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(OFFICIAL, "vco-b16.pth")
    write_images(tmp_path / "imagenet")
    write_encoder(tmp_path / "encoder")
    network = options_for(content_of()["model"])
    small = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    blocks = BLOCK.findall(PAGE)
    assert [language for language, _ in blocks] == ["sh", "sh", "python", "sh", "sh"]
    for language, text in blocks:
        if language == "python":
            exec(text, {})
            continue
        program, *arguments = shlex.split(text.replace("/data/imagenet", "imagenet"))
        if program == "vco-run":
            encoder = ["--features.weights", "encoder", "--sample.steps", "1"]
            assert main_run([*arguments, *network, *small, *encoder]) == 0, text
        elif arguments[0] == "import":
            assert main_vco([*arguments, *network]) == 0, text
        else:
            assert main_vco([*arguments, *(["--sample.steps", "1"] if arguments[0] == "sample" else [])]) == 0, text
    assert len(list(Path("images").glob("*.png"))) == 8
    assert "| begun with | vco-b16 |" in Path("tuned/README.md").read_text()
