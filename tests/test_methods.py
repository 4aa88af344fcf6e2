"""Every command of the method matrix runs: two steps, samples, an evaluation, a report."""

import json
import re
import shlex
from pathlib import Path

import pytest

from vco.cli import main_run
from vco.config.command_line import parse
from vco.config.resolve import resolve
from vco.plugins.discovery import load_catalog
from vco.run import assemble

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
METHODS = dict(re.findall(r"^### (.+?)\n\n```sh\nvco-run (.+?)\n```", PAGE.read_text(), re.MULTILINE))
OF_JIT = "--backbone.bottleneck 8 --backbone.context-start 1"
"""What the backbones of JiT's family have options for."""
TINY = (
    "--backbone.width 16 --backbone.depth 4 --backbone.heads 2 "
    "--train.steps 2 --train.batch-size 20 --train.samples-per-class 2 --train.fit-samples 80 --train.log-every 1 "
    "--sample.steps 2 --sample.grid-rows 1 --eval.samples 10"
)


def test_the_page_shows_a_command_for_every_method() -> None:
    assert len(METHODS) == PAGE.read_text().count("\n### ") >= 20


@pytest.mark.parametrize("method", METHODS)
def test_the_method_trains_and_samples(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tiny = TINY if "digits-latent" in METHODS[method] else f"{OF_JIT} {TINY}"
    assert main_run([*shlex.split(METHODS[method]), *shlex.split(tiny), "--output-dir", str(folder)]) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert json.loads((folder / "eval.json").read_text())["value"] > 0
    assert (folder / "samples" / "step-00000002.png").exists()
    assert (folder / "report.html").exists()


LATENT = re.findall(r"^vco-run (--preset latent256.+)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", LATENT)
def test_the_command_on_latents_fits_together(command: str) -> None:
    catalog = load_catalog()
    assemble(resolve(parse(shlex.split(command)), catalog).config, catalog, device="meta")


def test_every_preset_on_latents_has_a_command() -> None:
    presets = {name for name in load_catalog().names("presets") if name.startswith("latent256-")}
    assert presets == {shlex.split(command)[1] for command in LATENT}
