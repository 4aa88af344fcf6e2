"""Finds the plugins, each isolated from the others: one that is broken is recorded, and the rest work.

Entry points are walked here rather than by pluggy, which drops the second of two equal names, dies of a failing import
and ignores misspelt hooks.
"""

import importlib
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from types import ModuleType

import attrs
import pluggy

from vco import hooks
from vco.errors import UserError, did_you_mean, one_line
from vco.kinds import KINDS, NONE, PRESETS
from vco.plugins.registry import Catalog, Entry, Plugin

_KINDS = (*KINDS, PRESETS)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FILE = re.compile(r"[A-Za-z_][\w.]*:(?!.*\.\.)\w[\w./-]*\.ya?ml")  # stays inside its package


def load_catalog(extra_modules: Sequence[str] = (), without: Sequence[str] = ()) -> Catalog:
    """The installed plugins and `extra_modules`; never raises because of a plugin.

    Plugins are named by their distribution, entry point or module. Those of `without` are not imported, nor, where the
    environment variable VCO_PLUGINS is set, those that it does not name (as in VCO_PLUGINS=acme,other); what vco brings
    itself is left out only by `without`.
    """
    catalog, known = Catalog(), {hooks.PROJECT}
    only = _names(os.environ.get("VCO_PLUGINS", "").split(","))
    for point in sorted(entry_points(group=hooks.PROJECT), key=lambda point: (point.name, point.value)):
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"
        label = f"{distribution} (entry point {point.name})"
        names = _names([point.dist.name if point.dist else "", point.name, point.value])
        known |= names
        source = "VCO_PLUGINS" if "VCO_PLUGINS" in os.environ and not names & {*only, hooks.PROJECT} else ""
        source = "--no-plugin" if names & _names(without) else source
        catalog = _with(catalog, Plugin(label=label, module=point.value, left_out_by=source), point.load)
    for source, given in (("VCO_PLUGINS", only), ("--no-plugin", without)):
        for name in sorted(name for name in given if not _names([name]) <= known):
            broken = f"it is not installed{did_you_mean(name, known)}"
            catalog = _with(catalog, Plugin(label=f"{source} {name}", module=name, broken=broken))
    return with_modules(catalog, extra_modules)


def _names(names: Iterable[str]) -> set[str]:
    """Names of plugins in the one spelling of PEP 503, in which My_Plugin is my-plugin."""
    return {re.sub(r"[-_.]+", "-", name.strip()).lower() for name in names} - {""}


def with_modules(catalog: Catalog, modules: Iterable[str]) -> Catalog:
    """The catalog and modules that need not be installed, found in the current folder too; known ones are skipped."""
    for module in modules:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        if module not in [plugin.module for plugin in catalog.plugins if not plugin.left_out_by]:
            plugin = Plugin(label=f"--plugin {module}", module=module)
            catalog = _with(catalog, plugin, lambda name=module: importlib.import_module(name))
    return catalog


def _with(catalog: Catalog, plugin: Plugin, load: Callable[[], ModuleType] | None = None) -> Catalog:
    """The catalog and one more plugin; if it cannot be loaded, it is noted as broken and offers nothing."""
    entries = {kind: dict(names) for kind, names in catalog.entries.items()}
    try:
        for kind, offered in (_offers(load()) if load and plugin.used else {}).items():
            names = entries.setdefault(kind, {})
            for name, target in offered.items():
                entry = Entry(kind=kind, name=name, target=target, plugin=plugin.label)
                names[name] = (*names.get(name, ()), entry)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit at import must not end vco
        plugin = attrs.evolve(plugin, broken=one_line(error))
        entries = {kind: dict(names) for kind, names in catalog.entries.items()}
    return Catalog(entries=entries, plugins=(*catalog.plugins, plugin), recorded=catalog.recorded)


def _offers(module: ModuleType) -> dict[str, Mapping[str, str]]:
    """What the hooks of one plugin return: kind -> name -> target. Raises whatever is wrong with it."""
    if (version := getattr(module, "vco_api", hooks.API_VERSION)) != hooks.API_VERSION:
        raise UserError(
            f"it is for version {version} of vco's plugin API, and this is version {hooks.API_VERSION}: "
            "docs/write_a_plugin.md tells what changed"
        )
    manager = pluggy.PluginManager(hooks.PROJECT)  # one for each plugin, so that none sees another
    manager.add_hookspecs(typing.cast(typing.Any, hooks.SPECIFICATIONS))
    manager.register(module)  # raises on wrong signatures
    offers: dict[str, Mapping[str, str]] = {}
    for caller in manager.get_hookcallers(module) or ():
        if not caller.has_spec():
            known = [f"{hooks.PROJECT}_{kind}" for kind in _KINDS]
            raise UserError(f"there is no hook named {caller.name!r}{did_you_mean(caller.name, known)}")
        kind = caller.name.removeprefix(f"{hooks.PROJECT}_")
        for implementation in caller.get_hookimpls():
            offered = implementation.function()
            if not isinstance(offered, dict):
                raise UserError(f"{caller.name} returned {type(offered).__name__} instead of a dict")
            offers[kind] = typing.cast(dict[str, str], offered)
            for name, target in offers[kind].items():
                _check_names(caller.name, kind, name, target)
    if not offers:
        hint = "are its functions marked with @hookimpl?"
        if getattr(module, "__file__", "") is None:  # a namespace package
            hint = f"{module.__name__} here is a folder without __init__.py; is the package one level deeper?"
        raise UserError(f"it implements no hook of vco ({hint})")
    return offers


def misnamed(kind: str, name: object) -> str:
    """Why nothing of this kind can have this name; empty if it can."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "is not kebab-case, as in 'my-name'"
    return "stands for nothing chosen" if name == NONE and kind in KINDS and KINDS[kind].several else ""


def _check_names(hook: str, kind: str, name: object, target: object) -> None:
    if reason := misnamed(kind, name):
        raise UserError(f"{hook} returned the name {name!r}, which {reason}")
    form, shape = (_FILE, "package:path.yaml") if kind == PRESETS else (_CLASS, "module:Class")
    if not isinstance(target, str) or not form.fullmatch(target):
        raise UserError(f"{hook} returned {target!r} for {name!r}, which is not of the form {shape!r}")


def describe(catalog: Catalog) -> str:
    """The text of `vco plugins`: every name with one line, then the plugins and what is wrong with broken ones."""
    lines: list[str] = []
    for kind in _KINDS:
        lines.append(f"{kind}:")
        for name in catalog.names(kind):
            first, *others = catalog.entries[kind][name]
            summary = first.summary()
            if others:
                summary = "CONFLICT: offered by " + " and ".join(entry.plugin for entry in (first, *others))
            lines.append(f"  {name:<26} {summary}".rstrip())
    lines.append("plugins:")
    lines += [f"  {plugin.label}" for plugin in catalog.plugins if plugin.used]
    lines += [f"  NOT USED {plugin.label}: {plugin.why_not}" for plugin in catalog.plugins if not plugin.used]
    return "\n".join(lines)
