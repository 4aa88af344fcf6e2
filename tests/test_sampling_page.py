"""The commands and the Python of docs/sampling.md run, one after the other, on a tiny run."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import finished
import pytest

from vco.cli import main_vco
from vco.commands.sample import OPTIONS

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "sampling.md").read_text()
RUN = "runs/digits-jit-dual-coredi-hybrid"


def commands() -> list[list[str]]:
    """The arguments of each `vco sample` on the page, as a shell hands them over."""
    script = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    spoken = 'vco() { printf \'%q \' "$@"; echo; }; vco-run() { :; }; torchrun() { shift 4; "$@"; }\n'
    done = subprocess.run(["bash", "-euc", spoken + script], capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished.finish(tmp_path / RUN)
    (tmp_path / RUN / "facts.yaml").write_text(
        (tmp_path / RUN / "facts.yaml").read_text().replace("class_counts: {}", f"class_counts: {{train: {[9] * 10}}}")
    )
    monkeypatch.chdir(tmp_path)
    asked = commands()
    assert len(asked) == 11
    for argv in asked:
        argv = [{"50000": "60", "200": "24"}.get(part, part) for part in argv]
        assert main_vco(argv) == 0, argv
    made = {path.name for path in tmp_path.iterdir()}
    assert {"images", "images.npz", "scale-1", "scale-1.5", "scale-3", "way.png", "way.gif", "quick"} <= made
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "sampling.md", "exec"), names)
    assert names["raw"].shape == (4, 1, 8, 8)
    assert names["images"].shape == (24, 8, 8, 1)
    assert (tmp_path / "threes-and-fives.png").is_file()


def test_the_table_of_the_page_is_what_the_command_takes() -> None:
    named = set(re.findall(r"^\| `(--[\w-]+)", PAGE, re.MULTILINE)) | {"--out", "--trajectory"}
    assert named == OPTIONS.keys() - {"--plugin", "--no-plugin"}
