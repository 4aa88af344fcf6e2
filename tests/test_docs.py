"""Docs tell the same story as the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vco.kinds import NONE, SECTIONS
from vco.plugins.discovery import load_catalog

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
    assert f"\n{command}\n" in (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    first = script.index(command.replace("pip install", "pip install -q"))
    assert script[first + 1 :] == ["python tests/check.py --slow-only"]


def test_the_slow_tests_run_every_night() -> None:
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert "cron:" in nightly
    assert "python tests/check.py --all" in nightly


def rows_of_the_readme() -> dict[str, list[str]]:
    """Section -> the code in the second cell of its row in the table of options."""
    rows = re.findall(r"^\| `--([\w-]+)` \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {section: re.findall(r"`([^`]+)`", cell) for section, cell in rows}


def test_the_readme_has_a_row_for_every_kind_and_no_other() -> None:
    assert rows_of_the_readme().keys() == SECTIONS.keys()


@pytest.mark.parametrize("section", SECTIONS)
def test_the_row_of_a_kind_names_its_built_in_components_and_nothing_else(section: str) -> None:
    kind, catalog = SECTIONS[section], load_catalog()
    built_in = {n for n in catalog.names(kind.name) if catalog.get(kind.name, n).target.startswith("vco_plugins.")}
    examples = {code for code in rows_of_the_readme()[section] if "," in code}  # as in hybrid=10,repa=0.1
    named = {code.removesuffix(f"={kind.short_option.upper()}") for code in rows_of_the_readme()[section]} - examples
    assert named - ({NONE} if kind.several else set()) == built_in


def test_every_console_command_is_described_in_the_readme() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    readme = (ROOT / "README.md").read_text()
    assert all(re.search(rf"^{command} ", readme, re.MULTILINE) for command in scripts)


def test_every_test_on_the_reliability_page_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    assert len(named) > 40
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
