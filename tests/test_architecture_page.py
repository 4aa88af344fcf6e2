"""docs/architecture.md names the files that are there, and no file of the core is missing from it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "core" / "vco"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ON_THEIR_OWN = ("testing", "starter")
"""Rooms with pages of their own, whose files the page does not list."""


def test_every_path_on_the_page_exists() -> None:
    paths = re.findall(r"`((?:core|plugins)/[\w./]+)`", PAGE)
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_picture_of_the_rooms_is_the_tree() -> None:
    picture = PAGE.partition("```\n")[2].partition("```")[0]
    core = picture.partition("core/vco/\n")[2].partition("\nplugins/")[0]
    drawn: set[str] = set()
    for line in re.sub(r"\n {3,}", " ", core).splitlines():  # a long list goes on in the next line
        names, _, text = line.strip().partition("  ")
        if names.endswith("/"):
            folder = names.rstrip("/")
            drawn |= {folder} | {f"{folder}/{name}" for name in re.findall(r"\b\w+\.py", text)}
        else:
            drawn |= set(names.split(", "))
    files = {path.relative_to(CORE) for path in CORE.rglob("*.py") if path.name != "__init__.py"}
    there = {str(path) for path in files if path.parts[0] not in (*ON_THEIR_OWN, "api")}
    there |= {path.parts[0] for path in files if len(path.parts) > 1}
    assert drawn == there


def test_every_contract_is_named() -> None:
    assert [path.name for path in (CORE / "api").glob("*.py") if f"`{path.name}`" not in PAGE] == ["__init__.py"]
