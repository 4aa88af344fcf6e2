"""The commands and the Python of docs/evaluation.md run, one after the other, on a tiny run."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tiny

from vco.cli import main_run, main_vco
from vco.commands.evaluate import COMMON, OF_MODEL, OF_RUN

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text()
RUN = "runs/digits-jit-dual-coredi-hybrid"
FEWER = {"1000": "30", "500": "24", "200": "20", "64": "8"}
"""Numbers of images on the page, and here."""


@pytest.mark.slow  # thirty scores
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VCO_CACHE", str(tmp_path / "cache"))
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
    assert lines[0] == "vco-run --backbone jit-dual --adapter coredi --loss hybrid"
    assert main_run(tiny.argv(tmp_path / RUN, "--train.ema-decays", "0.5", *shlex.split(lines[0])[1:])) == 0
    for line in filter(None, lines[1:]):
        program, *argv = shlex.split(line)
        assert program == "vco", line
        argv = [FEWER.get(part, part) if before in ("--num", "--sweep-num", "--neighbours") else part
                for before, part in zip(["", *argv], argv, strict=False)]  # fmt: skip
        assert main_vco(argv) == 0, line
    assert {"digits-test.safetensors", "found.jsonl", "neighbours.png"} <= {path.name for path in tmp_path.iterdir()}
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(block, "evaluation.md", "exec"), names)
    assert len(names["lines"]) > 20


def test_the_table_of_the_page_is_what_the_command_takes() -> None:
    table = PAGE[PAGE.index("| option | meaning |") : PAGE.index("Options of `vco-run` for metrics")]
    named = set(re.findall(r"^\| `(--[\w-]+)", table, re.MULTILINE))
    elsewhere = {"--seed", "--neighbours", "--out", "--no-plugin"}
    assert named == (COMMON.keys() | OF_RUN.keys() | OF_MODEL.keys()) - elsewhere
