"""The sound components as subjects of the kit, and copies of them with a line changed."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from broken import KINDS

from vco.plugins.registry import Entry
from vco.testing.examine import laws_of
from vco.testing.subject import Subject

NUMBERS = itertools.count()


def subject(component: str, module: str = "sound", plugin: str = "vco.hooks") -> Subject:
    """A component of a module."""
    entry = Entry(kind=KINDS[component], name=component.lower(), target=f"{module}:{component}", plugin="the tests")
    return Subject(entry=entry, plugin=plugin)


def law_named(name: str, of: Subject) -> Any:
    """The law of this name, among those that say something about a subject."""
    return next(law for law in laws_of(of) if law.name == name)


def written(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Writes a module and returns its name."""
    name = f"broken_{next(NUMBERS)}"
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    return name
