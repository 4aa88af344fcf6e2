"""What the tests of the kit share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from broken import Mistake
from subjects import subject, written

from vco.testing.subject import Subject


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    """A sound component with one line of it changed."""

    def changed(component: str, old: str, new: str) -> Subject:
        return subject(component, written(Mistake(component, old, new).source(), tmp_path, monkeypatch))

    return changed
