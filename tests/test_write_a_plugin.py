"""docs/write_a_plugin.md: every block is executed, from top to bottom, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

from vco.kinds import KINDS, SECTIONS

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "write_a_plugin.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NEEDS_INSTALLATION = "vco_my_loss"
"""Blocks from here on are executed by tests/starter, in an environment of their own."""


def shell(line: str, folder: Path) -> str:
    """Runs a line that exits with 0, or with the status that its comment names; gives all it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    expected = int(match[1]) if (match := re.search(r"# exits with (\d)", line)) else 0
    done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, env=os.environ | {"PATH": path})
    output = done.stdout + done.stderr
    assert done.returncode == expected, f"{line}\n{output}"
    return output


def test_every_block_does_what_the_page_says(tmp_path: Path) -> None:
    output = ""
    for language, block in BLOCKS:
        if language in ("python", "yaml"):
            file = tmp_path / block.splitlines()[0].removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(block)
        elif language == "sh" and NEEDS_INSTALLATION not in block:
            output = "\n".join(shell(line, tmp_path) for line in block.splitlines())
        elif language == "text":
            assert block in output
    (report,) = tmp_path.glob("runs/*/report.html")
    assert "spectrum" in report.read_text()


def test_an_idea_takes_twenty_lines() -> None:
    files = [block.splitlines()[1:] for language, block in BLOCKS if language == "python"][:2]
    assert sum(bool(line.strip()) for lines in files for line in lines) <= 22


def test_every_kind_and_hook_is_in_the_table() -> None:
    assert all(f"| {kind.section} | `vco_{kind.name}` |" in PAGE for kind in KINDS.values())
    assert all(f"`{section}`" in PAGE.partition("`vco new` knows every kind")[2] for section in SECTIONS)
