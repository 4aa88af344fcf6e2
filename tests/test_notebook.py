"""The notebook in docs/ runs from its first cell to its last."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from vco.cli import main_run

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "open_a_run.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main_run(tiny.argv(tmp_path / "runs" / "digits-jit-dual-coredi-hybrid")) == 0
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    assert names["rows"][0].shape == (10, 1, 8, 8)
    assert tuple(names["features"].tokens.shape) == (10, 16, 48)
