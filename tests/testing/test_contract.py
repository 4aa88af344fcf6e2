"""The built-in components keep the contract, through the same call that any plugin's author makes."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vco_plugins
from vco.testing import Check, contract_checks


def image_folder() -> str:
    """A folder of random pictures, three classes of six and three."""
    root = Path(tempfile.mkdtemp(prefix="vco-contract-"))
    random = np.random.RandomState(0)
    for split, count in (("train", 6), ("val", 3)):
        for name in ("ant", "bee", "cat"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.randint(0, 255, (20, 24, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    return str(root)


SETTINGS = {"data/image-folder": {"root": image_folder(), "size": 16, "classes": 3}}
EXCEPTIONS = {
    "loss/drifting/is-independent-of-the-split": "its scales are sums over all processes, of which the kit has one",
    "loss/drifting/perfect-prediction-is-best": "forces are scaled to unit size, so that only their direction counts",
}


@contract_checks(vco_plugins, xfail=EXCEPTIONS, settings=SETTINGS)
def test_contract(check: Check) -> None:
    check()


@pytest.mark.slow
def test_slow_laws_hold_too_in_a_process_without_type_checks() -> None:
    code = "import sys; from vco.cli import main_vco; sys.exit(main_vco(sys.argv[1:]))"
    exceptions = [option for name in EXCEPTIONS for option in ("--xfail", name)]
    command = [sys.executable, "-c", code, "check", "vco_plugins", "--slow", *exceptions]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
