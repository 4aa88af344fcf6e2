from pathlib import Path

import attrs
import pytest

from vco.errors import UserError, did_you_mean
from vco.plugins.registry import Catalog, Entry, Plugin

GOOD = """
import attrs
from vco.api import Solver
class Good(Solver):
    '''One line [source].

    Another.
    '''
    @attrs.frozen(kw_only=True)
    class Config(Solver.Config):
        order: int = 2
    def __init__(self, config): self.config = config
    def integrate(self, velocity, state, path, noise): return state
"""
BROKEN = {
    "raises at import": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "exits at import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "missing dependency": ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
    "syntax error": ("class Good(:", "SyntaxError"),
    "no such class": ("", "has no attribute 'Good'"),
    "not a class": ("Good = 3", "not a subclass of vco.api.Solver"),
    "wrong base class": (GOOD.replace("Solver", "Data"), "not a subclass of vco.api.Solver"),
    "abstract": (GOOD.replace("def integrate", "def integrat"), "does not implement integrate"),
    "foreign Config": (GOOD.replace("Config(Solver.Config)", "Config"), "not a subclass of Solver.Config"),
    "plain Config": (GOOD.replace("@attrs.frozen(kw_only=True)", ""), "not decorated with @attrs.frozen"),
    "invalid default": (
        GOOD.replace("int = 2", "int = attrs.field(default=0, validator=attrs.validators.ge(1))"),
        "'order' must be >= 1: 0",
    ),
    "mutable default": (GOOD.replace("int = 2", "list = []"), "Config.order has a mutable default"),
    "no default": (GOOD.replace("int = 2", "int"), "Config.order has no default"),
    "reserved option": (GOOD.replace("order", "name"), "Config.name is a reserved name"),
    "unknown annotation": (GOOD.replace("order: int", "order: 'Innt'"), "'Innt' is not defined"),
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Writes a module of its own for each test and gives the entry of its class `Good`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> Entry:
        name = f"registry_case_{abs(hash(request.node.name))}"
        (tmp_path / f"{name}.py").write_text(source)
        return Entry(kind="solvers", name="good", target=f"{name}:Good", plugin="acme 1.0")

    return write


def test_a_class_that_keeps_the_contract_loads(module) -> None:
    assert module(GOOD).load().__name__ == "Good"


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_class_is_a_sentence_that_names_plugin_and_reason(module, source: str, reason: str) -> None:
    with pytest.raises(UserError, match=r"solver 'good' of acme 1\.0") as caught:
        module(source).load()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_that_would_hide_what_the_core_asks_of_a_config_is_refused(module) -> None:
    source = GOOD.replace("Solver", "Loss").replace("order", "factor")
    source = source.replace("def integrate(self, velocity, state, path, noise): return state", "forward = None")
    entry = attrs.evolve(module(source), kind="losses")
    with pytest.raises(UserError, match=r"Config\.factor is a reserved name"):
        entry.load()


def test_a_keyboard_interrupt_at_import_is_not_swallowed(module) -> None:
    with pytest.raises(KeyboardInterrupt):
        module("raise KeyboardInterrupt").load()


def test_the_summary_is_the_first_docstring_line_and_imports_nothing(module) -> None:
    assert module("raise RuntimeError\n" + GOOD).summary() == "One line [source]."


def test_the_summary_of_what_cannot_be_read_says_so(module) -> None:
    assert "SyntaxError" in module("class Good(:").summary()
    gone = Entry(kind="solvers", name="a", target="nowhere_to_be_found:A", plugin="p")
    assert gone.summary() == "(there is no module nowhere_to_be_found)"


def _catalog(*offers: tuple[str, str]) -> Catalog:
    entries: dict[str, tuple[Entry, ...]] = {}
    for name, plugin in offers:
        entry = Entry(kind="backbones", name=name, target="m:C", plugin=plugin)
        entries[name] = (*entries.get(name, ()), entry)
    return Catalog(entries={"backbones": entries}, plugins=(Plugin(label="ill 2.0", module="ill", broken="why"),))


def test_an_unknown_name_suggests_lists_and_mentions_broken_plugins() -> None:
    with pytest.raises(UserError) as caught:
        _catalog(("jit", "a"), ("jit-dual", "a")).get("backbones", "jitdual")
    assert str(caught.value) == (
        "no backbone named 'jitdual'; did you mean 'jit-dual'? available: jit, jit-dual; "
        "plugins not used (see `vco plugins`): ill 2.0"
    )


def test_a_name_offered_twice_names_both_plugins_and_leaves_other_names_alone() -> None:
    catalog = _catalog(("jit", "a 1"), ("jit", "b 2"), ("sit", "a 1"))
    with pytest.raises(UserError, match="'jit' is offered by a 1 and b 2"):
        catalog.get("backbones", "jit")
    assert catalog.get("backbones", "sit").plugin == "a 1"


def test_a_far_off_name_gets_no_suggestion() -> None:
    assert did_you_mean("xyz", ["jit-dual"]) == ""
