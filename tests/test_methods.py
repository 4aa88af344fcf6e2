"""Every command of the method matrix runs: two steps, samples, an evaluation, a report."""

import json
import re
import shlex
from pathlib import Path

import pytest

from vco.cli import main_run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
METHODS = dict(re.findall(r"^### (.+?)\n\n```sh\nvco-run (.+?)\n```", PAGE.read_text(), re.MULTILINE))
TINY = (
    "--backbone.width 16 --backbone.depth 4 --backbone.heads 2 --backbone.bottleneck 8 --backbone.context-start 1 "
    "--train.steps 2 --train.batch-size 20 --train.samples-per-class 2 --train.fit-samples 80 --train.log-every 1 "
    "--sample.steps 2 --sample.grid-rows 1 --eval.samples 10"
)


def test_the_page_shows_a_command_for_every_method() -> None:
    assert len(METHODS) == PAGE.read_text().count("\n### ") >= 20


@pytest.mark.parametrize("method", METHODS)
def test_the_method_trains_and_samples(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main_run([*shlex.split(METHODS[method]), *shlex.split(TINY), "--output-dir", str(folder)]) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert json.loads((folder / "eval.json").read_text())["value"] > 0
    assert (folder / "samples" / "step-00000002.png").exists()
    assert (folder / "report.html").exists()
