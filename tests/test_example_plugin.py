"""The example package, from its installation to its removal, in an environment of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from environments import environment
from safetensors import safe_open

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "example_plugin"
SMALL = [
    "--backbone.width", "16", "--backbone.depth", "2", "--backbone.heads", "2", "--backbone.context-start", "1",
    "--train.batch-size", "20", "--train.samples-per-class", "2", "--train.fit-samples", "60", "--train.log-every", "1",
    "--sample.steps", "1", "--sample.grid-rows", "1", "--eval.samples", "20", "--mixed-precision", "fp32",
]  # fmt: skip
CHOSEN = [
    "--adapter", "centred", "--adapter.factor", "0.5", "--loss", "relation=0.5", "--loss.relation.margin", "0.05",
    "--loss.relation.block", "1",
]  # fmt: skip


@pytest.mark.slow
def test_the_example_is_installed_used_resumed_and_missed_when_it_is_gone(tmp_path: Path) -> None:
    python, run = environment(tmp_path / "environment"), tmp_path / "run"
    quiet = os.environ | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def call(*command: str | Path, status: int = 0) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=tmp_path)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def vco_run(*options: str, status: int = 0) -> str:
        return call(python, "-m", "vco.cli", *SMALL, "--output-dir", str(run), *CHOSEN, *options, status=status)

    pip = [sys.executable, "-m", "pip", "--python", python]
    call(*pip, "install", "--no-deps", "--no-build-isolation", EXAMPLE)
    assert "--loss.relation.margin" in vco_run("--help")

    vco_run("--train.steps", "2")
    with safe_open(run / "checkpoints" / "step-00000002" / "model.safetensors", "pt") as model:
        names = list(model.keys())
    assert any(name.endswith("relation.project.weight") for name in names)
    assert any(name.endswith("adapter.mean") for name in names)
    assert "resuming after step 2 of 4" in vco_run("--train.steps", "4")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("relation" in key for key in lines[-1])

    call(*pip, "uninstall", "--yes", "vco-relation")
    message = vco_run("--train.steps", "6", status=2)
    assert "no loss named 'relation'" in message
    assert "this run had it from vco-relation 0.1.0 (entry point relation), which is missing now" in message
