"""Names of components and the classes behind them, which are imported only when chosen."""

import ast
import difflib
import importlib
import importlib.util
import typing
from collections.abc import Iterable, Mapping
from importlib.abc import InspectLoader
from typing import Any, Final

import attrs

from vco.errors import UserError
from vco.hooks import CONTRACTS

PRESETS: Final = "presets"
NOUNS: Final = {
    "backbones": "backbone",
    "features": "feature source",
    "adapters": "adapter",
    "losses": "loss",
    "guidance": "guidance",
    "processes": "process",
    "solvers": "solver",
    "data": "data set",
    PRESETS: "preset",
}


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A suffix for an error message: "; did you mean 'x'?", or nothing where no name is near."""
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(error: BaseException) -> str:
    """Somebody else's exception as part of a sentence: its type and the first line of its message."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


@attrs.frozen(kw_only=True)
class Entry:
    """One offered name: a component's class ("module:Class") or a preset's file ("package:path")."""

    kind: str
    name: str
    target: str
    plugin: str

    def load(self) -> type[Any]:
        """Imports the class and holds it against its contract.

        Raises:
            UserError: naming the plugin and the reason if the class cannot be imported or breaks the contract.
        """
        from vco import api  # imports torch, which listing and choosing names must not wait for

        module, _, name = self.target.partition(":")
        try:
            component = getattr(importlib.import_module(module), name)
            reason = _violation(component, getattr(api, CONTRACTS[self.kind]))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may do anything at import, sys.exit included
            raise UserError(f"{self} cannot be loaded: {one_line(error)}") from error
        if reason:
            raise UserError(f"{self} breaks the contract: {reason}")
        return component

    def summary(self) -> str:
        """First line of the class docstring, read from the source without importing the module."""
        module, _, name = self.target.partition(":")
        try:
            spec = importlib.util.find_spec(module)  # imports the parent packages, not the module
            if spec is None:
                return f"(there is no module {module})"
            source = spec.loader.get_source(module) if isinstance(spec.loader, InspectLoader) else None
            for node in ast.parse(source or "").body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return (ast.get_docstring(node) or "").partition("\n")[0]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return f"(cannot be read: {one_line(error)})"
        return ""

    def __str__(self) -> str:
        return f"{NOUNS[self.kind]} {self.name!r} of {self.plugin} ({self.target})"


def _violation(component: Any, contract: type[Any]) -> str:
    """Why a class does not fulfil its contract, or nothing."""
    if not (isinstance(component, type) and issubclass(component, contract)):
        return f"it must be a subclass of vco.api.{contract.__name__}"
    if missing := getattr(component, "__abstractmethods__", None):
        return f"it does not implement {', '.join(sorted(missing))}"
    config: Any = getattr(component, "Config", None)
    if not (isinstance(config, type) and issubclass(config, contract.Config)):
        return f"its Config must be a subclass of {contract.__name__}.Config"
    if "__attrs_attrs__" not in vars(config):  # inherited otherwise, and its own fields would be lost
        return "its Config must be decorated with @attrs.frozen(kw_only=True)"
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(config)
    for field in fields:
        if field.init and field.default is attrs.NOTHING:
            return f"Config.{field.name} has no default"
        if type(field.default).__hash__ is None:
            return f"Config.{field.name} has a mutable default: use a tuple or attrs.field(factory=...)"
        if not field.kw_only:
            return f"Config.{field.name} is not keyword-only: use @attrs.frozen(kw_only=True)"
    typing.get_type_hints(config)  # raises on annotations that name nothing
    try:
        config().any = None
    except attrs.exceptions.FrozenInstanceError:
        return ""
    except AttributeError:  # slotted, but not frozen
        pass
    return "its Config must be frozen: use @attrs.frozen(kw_only=True)"


@attrs.frozen(kw_only=True)
class Plugin:
    """One plugin module and how it was found; `broken` says why nothing of it can be used."""

    label: str
    module: str
    broken: str = ""


@attrs.frozen(kw_only=True)
class Catalog:
    """Everything on offer: kind -> name -> the entries of that name (more than one is a conflict)."""

    entries: Mapping[str, Mapping[str, tuple[Entry, ...]]] = attrs.field(factory=dict)
    plugins: tuple[Plugin, ...] = ()

    def names(self, kind: str) -> list[str]:
        """The names on offer, sorted."""
        return sorted(self.entries.get(kind, {}))

    def get(self, kind: str, name: str) -> Entry:
        """The entry of a name.

        Raises:
            UserError: if nobody offers the name (with suggestions and broken plugins), or several plugins do.
        """
        offered = self.entries.get(kind, {}).get(name, ())
        if not offered:
            names = self.names(kind)
            message = f"no {NOUNS[kind]} named {name!r}{did_you_mean(name, names) or ';'}"
            message += f" available: {', '.join(names) or 'none'}"
            broken = ", ".join(plugin.label for plugin in self.plugins if plugin.broken)
            raise UserError(message + (f"; broken plugins (see `vco plugins`): {broken}" if broken else ""))
        if len(offered) > 1:
            plugins = " and ".join(entry.plugin for entry in offered)
            raise UserError(
                f"the {NOUNS[kind]} {name!r} is offered by {plugins}: uninstall all but one of them"
            )
        return offered[0]
