"""A long run: memory, open files and mapped files stay as they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

PROGRAM = """
import gc, json, os, sys
from pathlib import Path
from vco.cli import main_run
from vco.training.loop import Training

found, step = [], Training._one_step
def watched(self, *given):
    if self.step % 50 == 49:
        gc.collect()
        rest = [p.name for p in Path("/proc/self/map_files").glob("*") if "checkpoints" in os.readlink(p)]
        found.append([
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            len(os.listdir("/proc/self/fd")), len(rest),
        ])
    return step(self, *given)
Training._one_step = watched
status = main_run(sys.argv[2:])
Path(sys.argv[1]).write_text(json.dumps(found))
sys.exit(status)
"""


@pytest.mark.slow  # some hundred steps
def test_memory_and_files_stay_the_same_over_a_run_that_has_gone_on(tmp_path: Path) -> None:
    often = (
        "--train.checkpoint-every",
        "10",
        "--train.sample-every",
        "50",
        "--eval.every",
        "100",
        "--train.workers",
        "1",
    )
    run, steps = tmp_path / "run", "--train.steps"
    for total in ("12", "400"):  # the second one goes on from a checkpoint, which it must let go of
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / total), *tiny.argv(run, *often, steps, total)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "400").read_text())
    assert len(seen) == 8
    memory, files, mapped = (list(values) for values in zip(*seen, strict=True))
    assert max(memory[3:]) < 1.02 * memory[3]  # from step 200 on, when everything has been done once
    assert max(files[3:]) <= files[3]
    assert max(mapped) == 0
