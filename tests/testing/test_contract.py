"""The built-in components keep the contract, through the same call that any plugin's author makes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import numpy as np
import packed
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from tiny_encoders import CASES, SIDE
from tiny_rae import write_rae
from tiny_vae import write_vae

import vco_plugins
from vco.testing import Check, contract_checks

FOLDER = Path(tempfile.mkdtemp(prefix="vco-contract-"))
ENCODERS = {f"features/{case.id}": case for case in CASES if "-" not in case.id}
"""Those whose id is the name of a feature source: one format each."""
SETTINGS = {
    "data/image-folder": {"root": str(FOLDER), "size": 16, "classes": 3},
    "data/shards": {"root": str(FOLDER / "shards"), "size": 16, "window": 2},
    "codec/rae": {"weights": str(FOLDER / "tokens" / "rae"), "encoder": str(FOLDER / "tokens" / "encoder")},
    "codec/vae": {"weights": str(FOLDER / "vae")},
    "data/repa-latents": {"root": str(FOLDER / "published"), "size": 16, "held_out": 4},
    "data/hf": {"path": str(FOLDER / "rows.parquet"), "size": 16, "label_column": "kind"},
    **{name: {"weights": str(FOLDER / case.id), "resolution": SIDE} for name, case in ENCODERS.items()},
}


@pytest.fixture(autouse=True, scope="module")
def files() -> Iterator[None]:
    """Pictures, three classes of 50 and three, in a folder, in shards and in a table; tiny random encoders as files."""
    random = np.random.RandomState(0)
    for split, count in (("train", 50), ("val", 3)):
        for number, name in enumerate(("ant", "bee", "cat")):
            folder = FOLDER / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture = random.randint(0, 200, (20, 24, 3)) + 20 * number
                Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i}.png")
    packed.pack(FOLDER, FOLDER / "shards", "--data.size", "16")
    table(sorted(FOLDER.glob("train/*/*.png")), FOLDER / "rows.parquet")
    write_vae(FOLDER / "vae")
    write_rae(FOLDER / "tokens")
    published_layout(FOLDER / "published", random)
    for case in ENCODERS.values():
        (FOLDER / case.id).mkdir()
        case.save(FOLDER / case.id)
    yield
    rmtree(FOLDER)


def published_layout(folder: Path, random: np.random.RandomState) -> None:
    """Pictures and latents as REPA's preprocessing writes them."""
    labels: list[tuple[str, int]] = []
    for kind in ("images", "vae-sd"):
        (folder / kind / "00000").mkdir(parents=True)
    for number in range(90):
        picture = random.randint(0, 200, (16, 16, 3)) + 20 * (number % 3)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"images/00000/img{number:08}.png")
        name = f"00000/img-mean-std-{number:08}.npy"
        np.save(folder / "vae-sd" / name, random.rand(8, 4, 4).astype(np.float32))
        labels.append((name, number % 3))
    (folder / "vae-sd/dataset.json").write_text(json.dumps({"labels": labels}))


def table(files: list[Path], target: Path) -> None:
    """A parquet file of pictures and the names of their folders."""
    pictures = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    parquet.write_table(pyarrow.table({"image": pictures, "kind": [file.parent.name for file in files]}), target)


@contract_checks(vco_plugins, settings=SETTINGS)
def test_contract(check: Check) -> None:
    check()


@pytest.mark.slow
def test_slow_laws_hold_too_in_a_process_without_type_checks() -> None:
    code = "import sys; from vco.cli import main_vco; sys.exit(main_vco(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "check", "vco_plugins", "--slow"]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
