import sys
from pathlib import Path

import pytest

from vco.errors import UserError
from vco.plugins.discovery import describe, load_catalog, with_modules
from vco.plugins.registry import Catalog, Plugin

HOOK = "from vco import hookimpl\n@hookimpl\ndef vco_losses():\n    return {'%s': 'nowhere:Loss'}\n"
BROKEN = {
    "raises at import": ("1 / 0", "ZeroDivisionError: division by zero"),
    "exits at import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "missing dependency": ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
    "misspelt hook": (
        HOOK.replace("vco_losses", "vco_loses") % "a",
        "no hook named 'vco_loses'; did you mean 'vco_losses'?",
    ),
    "wrong signature": (HOOK.replace("()", "(register)") % "a", "register"),
    "hook that raises": (HOOK.replace("return", "raise ValueError('x') #") % "a", "ValueError: x"),
    "hook that exits": (HOOK.replace("return", "raise SystemExit #") % "a", "SystemExit"),
    "hook that returns a list": (HOOK.replace("return", "return [] #") % "a", "returned list instead of a dict"),
    "hook that returns nothing": (HOOK.replace("return", "pass #") % "a", "returned NoneType instead of a dict"),
    "hook that yields": (HOOK.replace("return", "yield") % "a", "returned generator instead of a dict"),
    "illegal name": (HOOK % "My_Loss", "'My_Loss', which is not kebab-case"),
    "reserved name": (HOOK % "none", "'none', which stands for nothing chosen"),
    "illegal target": (HOOK.replace(":Loss", "") % "a", "'nowhere' for 'a', which is not of the form 'module:Class'"),
    "class instead of target": (HOOK.replace("'nowhere:Loss'", "int") % "a", "<class 'int'> for 'a'"),
    "preset outside": (
        HOOK.replace("losses", "presets").replace("nowhere:Loss", "p:../../a.yaml") % "a",
        "not of the form 'package:path.yaml'",
    ),
    "other API version": (
        "vco_api = 1\n" + HOOK % "a",
        "it is for version 1 of vco's plugin API, and this is version 2: docs/write_a_plugin.md tells what changed",
    ),
    "no hook": ("x = 1", "it implements no hook"),
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a distribution with one plugin module, as pip would, and returns the module's name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(distribution: str, source: str, entry_point: str = "main") -> str:
        module = f"{distribution}_{abs(hash(str(tmp_path)))}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[vco]\n{entry_point} = {module}\n")
        return module

    return write


def _plugin(catalog: Catalog, distribution: str) -> Plugin:
    (found,) = [plugin for plugin in catalog.plugins if plugin.label.startswith(f"{distribution} ")]
    return found


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_named_with_its_reason_and_leaves_the_others_alone(
    install, source: str, reason: str
) -> None:
    install("broken", source)
    install("healthy", HOOK % "health")
    catalog = load_catalog()
    assert _plugin(catalog, "broken").label == "broken 1.5 (entry point main)"
    assert reason in _plugin(catalog, "broken").broken
    assert catalog.get("losses", "health").plugin == "healthy 1.5 (entry point main)"
    assert f"NOT USED broken 1.5 (entry point main): {_plugin(catalog, 'broken').broken}" in describe(catalog)


def test_a_plugin_may_declare_the_version_of_the_api_it_was_written_for(install) -> None:
    install("current", "vco_api = 2\n" + HOOK % "declared")
    assert _plugin(load_catalog(), "current").broken == ""


@pytest.mark.parametrize("chosen", ["Alpha", "first", "MODULE", " alpha , "])
def test_vco_plugins_selects_by_distribution_entry_point_or_module(
    install, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    module = install("alpha", HOOK % "from-alpha", entry_point="first")
    install("beta", "raise SystemExit", entry_point="second")
    monkeypatch.setenv("VCO_PLUGINS", chosen.replace("MODULE", module))
    catalog = load_catalog()
    assert "from-alpha" in catalog.names("losses")
    beta = _plugin(catalog, "beta")  # was not even imported
    assert (beta.left_out_by, beta.broken, beta.used) == ("VCO_PLUGINS", "", False)


def test_an_empty_vco_plugins_leaves_the_built_ins(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("alpha", HOOK % "from-alpha")
    monkeypatch.setenv("VCO_PLUGINS", "")
    names = load_catalog().names("losses")
    assert "from-alpha" not in names
    assert "hybrid" in names


@pytest.mark.parametrize("name", ["alpha", "ALPHA", "first", "MODULE"])
def test_a_plugin_left_out_is_not_imported_and_said_to_be_left_out(install, name: str) -> None:
    module = install("alpha", "1 / 0", entry_point="first")
    install("beta", HOOK % "from-beta")
    catalog = load_catalog(without=[name.replace("MODULE", module)])
    label = "alpha 1.5 (entry point first)"
    assert _plugin(catalog, "alpha") == Plugin(label=label, module=module, left_out_by="--no-plugin")
    assert "from-beta" in catalog.names("losses")
    assert f"\n  NOT USED {label}: left out by --no-plugin" in describe(catalog)


def test_choosing_from_a_plugin_that_is_left_out_names_it(install) -> None:
    install("alpha", HOOK % "from-alpha")
    with pytest.raises(UserError, match=r"plugins not used .see `vco plugins`.: alpha 1\.5 \(entry point main\)$"):
        load_catalog(without=["alpha"]).get("losses", "from-alpha")


def test_a_module_asked_for_by_name_is_loaded_though_vco_plugins_leaves_it_out(
    install, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install("alpha", HOOK % "from-alpha")
    monkeypatch.setenv("VCO_PLUGINS", "")
    assert "from-alpha" in load_catalog([module]).names("losses")


def test_names_of_plugins_that_are_not_installed_are_listed_as_broken(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("alpha", HOOK % "from-alpha")
    monkeypatch.setenv("VCO_PLUGINS", "alpa")
    found = {plugin.label: plugin.broken for plugin in load_catalog(without=["nowhere-at-all"]).plugins}
    assert found["VCO_PLUGINS alpa"] == "it is not installed; did you mean 'alpha'?"
    assert found["--no-plugin nowhere-at-all"] == "it is not installed"


def test_nothing_of_a_broken_plugin_is_offered(install) -> None:
    install("halfway", HOOK % "first" + HOOK.replace("losses", "solvers") % "Bad_Name")
    assert "first" not in load_catalog().names("losses")


def test_a_keyboard_interrupt_at_import_is_not_swallowed(install) -> None:
    install("interrupted", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_catalog()


def test_equal_entry_point_names_of_two_distributions_both_load(install) -> None:
    install("alpha", HOOK % "from-alpha", entry_point="same")
    install("beta", HOOK % "from-beta", entry_point="same")
    assert {"from-alpha", "from-beta"} <= set(load_catalog().names("losses"))


def test_a_name_of_two_plugins_is_listed_as_a_conflict_naming_both(install) -> None:
    install("alpha", HOOK % "twice")
    install("beta", HOOK % "twice")
    text = describe(load_catalog())
    assert "CONFLICT: offered by alpha 1.5 (entry point main) and beta 1.5 (entry point main)" in text


def test_a_module_that_is_not_installed_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(HOOK % "local")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_catalog(["only_here"]).get("losses", "local").plugin == "--plugin only_here"


def test_a_folder_above_the_package_is_said_to_be_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "above" / "package").mkdir(parents=True)
    (tmp_path / "above" / "package" / "__init__.py").write_text(HOOK % "local")
    monkeypatch.syspath_prepend(tmp_path)
    (plugin,) = with_modules(Catalog(), ["above"]).plugins
    assert "above here is a folder without __init__.py; is the package one level deeper?" in plugin.broken


def test_a_module_named_twice_is_loaded_once(install) -> None:
    module = install("alpha", HOOK % "once")
    assert load_catalog([module, module]).get("losses", "once").plugin == "alpha 1.5 (entry point main)"


def test_the_listing_shows_every_kind_with_one_line_for_each_name() -> None:
    text = describe(with_modules(Catalog(), ["fake_plugin"]))
    assert "  net                        A network with every type of option [nobody].\n" in text
    assert "\n  digits                     What the preset is for.\n" in text
    assert "presets:\n  astray                     (cannot be read: ModuleNotFoundError" in text
    assert text.endswith("plugins:\n  --plugin fake_plugin")


def test_every_built_in_is_there_and_keeps_its_contract() -> None:
    catalog = load_catalog(["vco_plugins"])
    for kind in catalog.entries.keys() - {"presets"}:
        for name in catalog.names(kind):
            for entry in catalog.entries[kind][name]:
                assert entry.summary().endswith("."), entry
                assert entry.load().__module__ == entry.target.partition(":")[0]
