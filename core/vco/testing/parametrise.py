"""The kit as a pytest decorator."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vco.testing.examine import examine, laws_of
from vco.testing.law import Law, NotApplicableError
from vco.testing.subject import Subject, discover

if TYPE_CHECKING:
    import pytest

Check = Callable[[], None]
"""One law for one component; raises if it is broken."""


def contract_checks(
    plugin_module: ModuleType | str,
    xfail: Mapping[str, str] | None = None,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    slow: bool = False,
) -> "pytest.MarkDecorator":
    """Parametrises a test with one case for every law and every component that a plugin registers.

    A case's id is section/name/law, as in "loss/hybrid/gradient-reaches-prediction". The test takes `check` and calls
    it. A law that says nothing about a component, or whose weights or files are missing, is skipped with the reason.

    Args:
        plugin_module: the module with the hooks, or its name.
        xfail: id -> reason, for laws that a component breaks on purpose; one that holds after all is a failure.
        settings: component id -> options to test it with, and shapes that it needs, as in {"data/my-data": {"root":
            "..."}, "backbone/mine": {"streams.features": "16x8"}}.
        slow: take the laws that need seconds instead of the quick ones.

    Raises:
        UserError: if the plugin cannot be loaded, or `settings` names a component that it does not register.
        ValueError: if `xfail` names a check that does not exist.
    """
    import pytest

    def make(law: Law, subject: Subject) -> Check:
        def check() -> None:
            try:
                examine(law, subject)
            except NotApplicableError as reason:
                pytest.skip(str(reason))

        return check

    expected = xfail or {}
    pairs = [(law, subject) for subject in discover(plugin_module, settings) for law in laws_of(subject)]
    if unknown := expected.keys() - {f"{subject.id}/{law.name}" for law, subject in pairs}:
        raise ValueError(f"xfail names checks that do not exist: {', '.join(sorted(unknown))}")
    cases: list[Any] = []
    for law, subject in pairs:
        name = f"{subject.id}/{law.name}"
        marks = [pytest.mark.xfail(reason=expected[name], strict=True)] if name in expected else []
        if law.slow == slow:
            cases.append(pytest.param(make(law, subject), id=name, marks=marks))
    return pytest.mark.parametrize("check", cases)
