"""The contract kit: proves that a plugin keeps the promises of `vco.api`, one named law at a time.

In a plugin's tests (needs pytest; with Hypothesis more sizes are tried):

    import my_plugin
    from vco.testing import Check, contract_checks

    @contract_checks(my_plugin)
    def test_contract(check: Check) -> None:
        check()

Or without pytest: `vco check my_plugin`. What each law says is the docstring of its function; `docs/contract_kit.md`
lists all of them and what they cannot see.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vco.testing.parametrise import Check as Check
    from vco.testing.parametrise import contract_checks as contract_checks

__all__ = ["Check", "contract_checks"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imports torch, which `vco check --help` need not wait for
        from vco.testing import parametrise

        return getattr(parametrise, name)
    raise AttributeError(f"module 'vco.testing' has no attribute {name!r}")
