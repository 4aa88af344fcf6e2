"""Docs tell the same story as the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from vco.plugins import load_catalog

ROOT = Path(__file__).resolve().parents[1]
ARXIV = re.compile(r"\b(\d{4}\.\d{5})\b")


def test_the_components_page_is_what_the_components_say() -> None:
    script = [sys.executable, ROOT / "docs" / "make_components.py", "--check"]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_cited_paper_is_in_the_references() -> None:
    listed = set(ARXIV.findall((ROOT / "docs" / "references.bib").read_text()))
    files = [*ROOT.glob("core/**/*.py"), *ROOT.glob("plugins/**/*"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".md", ".yaml")}
    missing = {f"{path.name}: {n}" for path, text in texts.items() for n in ARXIV.findall(text) if n not in listed}
    assert not missing


def test_readme_and_ci_run_the_same_test_command() -> None:
    command = "pip install -e '.[test]' && python tests/check.py"
    assert command in (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    assert all(part in script for part in ("-e '.[test]'", "python tests/check.py"))


def test_readme_names_every_built_in_component() -> None:
    readme = (ROOT / "README.md").read_text()
    catalog = load_catalog()
    names = {name for kind in catalog.entries for name in catalog.names(kind) if kind != "presets"}
    assert {name for name in names if f"`{name}`" not in readme and name not in readme} == set()


def test_every_console_command_is_described_in_the_readme() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    readme = (ROOT / "README.md").read_text()
    assert all(re.search(rf"^{command} ", readme, re.MULTILINE) for command in scripts)
