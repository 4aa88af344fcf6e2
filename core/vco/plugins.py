"""Finds the plugins, each isolated from the others: one that is broken is recorded, and the rest work.

Entry points are walked here rather than by pluggy, which drops the second of two equal names, dies of a failing import
and ignores misspelt hooks.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points
from types import ModuleType

import pluggy

from vco import hooks
from vco.errors import UserError
from vco.registry import NOUNS, PRESETS, Catalog, Entry, Plugin, did_you_mean, one_line

_KINDS = (*hooks.CONTRACTS, PRESETS)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_FILE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:(?!.*\.\.)\w[\w./-]*\.ya?ml")


def load_catalog(extra_modules: Sequence[str] = ()) -> Catalog:
    """All installed plugins and `extra_modules`; never raises because of a plugin."""
    catalog = Catalog()
    for point in sorted(entry_points(group=hooks.PROJECT), key=lambda point: (point.name, point.value)):
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"
        catalog = _add(catalog, f"{distribution} (entry point {point.name})", point.value, point.load)
    return with_modules(catalog, extra_modules)


def with_modules(catalog: Catalog, modules: Iterable[str]) -> Catalog:
    """The catalog and modules that need not be installed, also found in the current folder; known ones are skipped."""
    for module in modules:
        if any(plugin.module == module and not plugin.broken for plugin in catalog.plugins):
            continue
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        catalog = _add(
            catalog, f"--plugin {module}", module, lambda name=module: importlib.import_module(name)
        )
    return catalog


def require(catalog: Catalog, modules: Iterable[str]) -> None:
    """Raises `UserError` if one of the modules, which the user asked for by name, is broken."""
    for plugin in catalog.plugins:
        if plugin.broken and plugin.module in modules:
            raise UserError(f"{plugin.label} is broken: {plugin.broken}")


def _add(catalog: Catalog, label: str, module: str, load: Callable[[], ModuleType]) -> Catalog:
    try:
        offers = [
            Entry(kind=kind, name=name, target=target, plugin=label)
            for kind, offered in _offers(load()).items()
            for name, target in offered.items()
        ]
    except KeyboardInterrupt:
        raise
    except UserError as error:
        return _with(catalog, Plugin(label=label, module=module, broken=str(error)), [])
    except BaseException as error:  # sys.exit at import must not end vco
        return _with(catalog, Plugin(label=label, module=module, broken=one_line(error)), [])
    return _with(catalog, Plugin(label=label, module=module), offers)


def _with(catalog: Catalog, plugin: Plugin, offers: Iterable[Entry]) -> Catalog:
    entries = {kind: dict(names) for kind, names in catalog.entries.items()}
    for entry in offers:
        names = entries.setdefault(entry.kind, {})
        names[entry.name] = (*names.get(entry.name, ()), entry)
    return Catalog(entries=entries, plugins=(*catalog.plugins, plugin))


def _offers(module: ModuleType) -> dict[str, dict[str, str]]:
    """What the hooks of one plugin return, checked: kind -> name -> target."""
    manager = pluggy.PluginManager(hooks.PROJECT)  # one for each plugin, so that none sees another
    manager.add_hookspecs(hooks)
    manager.register(module)  # raises on wrong signatures
    offers: dict[str, dict[str, str]] = {}
    for caller in manager.get_hookcallers(module) or ():
        if not caller.has_spec():
            known = [f"{hooks.PROJECT}_{kind}" for kind in _KINDS]
            raise UserError(f"there is no hook named {caller.name!r}{did_you_mean(caller.name, known)}")
        for implementation in caller.get_hookimpls():
            offered = implementation.function()
            kind = caller.name.removeprefix(f"{hooks.PROJECT}_")
            if reason := _illegal(kind, offered):
                raise UserError(f"{caller.name} returned {reason}")
            offers[kind] = dict(offered)
    if not offers:
        raise UserError("it implements no hook of vco (are the functions marked with @hookimpl?)")
    return offers


def _illegal(kind: str, offered: object) -> str:
    if not isinstance(offered, dict):
        return f"{type(offered).__name__} instead of a dict"
    form, shape = (_FILE, '"package:path.yaml"') if kind == PRESETS else (_CLASS, '"module:Class"')
    for name, target in offered.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            return f"the name {name!r}, which is not kebab-case (such as 'my-name')"
        if kind == "losses" and name == "none":
            return "the name 'none', which stands for no loss at all"
        if not isinstance(target, str) or not form.fullmatch(target):
            return f"{target!r} for {name!r}, which is not {shape}"
    return ""


def describe(catalog: Catalog) -> str:
    """The text of `vco plugins`: every name with one line, then the plugins and what is wrong with broken ones."""
    lines: list[str] = []
    for kind in _KINDS:
        lines.append(f"{kind}:")
        for name in catalog.names(kind):
            offered = catalog.entries[kind][name]
            summary = offered[0].target if kind == PRESETS else offered[0].summary()
            if len(offered) > 1:
                summary = "CONFLICT: offered by " + " and ".join(entry.plugin for entry in offered)
            lines.append(f"  {name:<20} {summary}".rstrip())
    lines.append("plugins:")
    lines += [f"  {plugin.label}" for plugin in catalog.plugins if not plugin.broken]
    lines += [f"  BROKEN {plugin.label}: {plugin.broken}" for plugin in catalog.plugins if plugin.broken]
    return "\n".join(lines)
