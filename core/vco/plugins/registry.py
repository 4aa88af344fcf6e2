"""Names of components and the classes behind them, which are imported only when chosen."""

import ast
import importlib
import importlib.util
import typing
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader
from importlib.resources import files
from typing import Any

import attrs

from vco.errors import UserError, did_you_mean, one_line
from vco.kinds import KINDS, PRESETS, noun_of


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
            _check(component, getattr(api, KINDS[self.kind].contract))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may do anything at import, sys.exit included
            where = f"{noun_of(self.kind)} {self.name!r} of {self.plugin} ({self.target})"
            raise UserError(f"{where} cannot be used: {one_line(error)}") from error
        return component

    def summary(self) -> str:
        """First line of the class docstring, read without importing the module, or of a preset's comment."""
        module, _, name = self.target.partition(":")
        try:
            if self.kind == PRESETS:
                return files(module).joinpath(name).read_text().partition("\n")[0].lstrip("# ")
            spec = importlib.util.find_spec(module)  # imports the parent packages only
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


def _check(component: Any, contract: Any) -> None:
    if not isinstance(component, type) or not issubclass(component, contract):
        raise UserError(f"it is not a subclass of vco.api.{contract.__name__}")
    if missing := getattr(component, "__abstractmethods__", None):
        raise UserError(f"it does not implement {', '.join(sorted(missing))}")
    config: Any = getattr(component, "Config", None)
    if not isinstance(config, type) or not issubclass(config, contract.Config):
        raise UserError(f"its Config is not a subclass of {contract.__name__}.Config")
    if "__attrs_attrs__" not in vars(config):  # it would have the fields of its base and none of its own
        raise UserError("its Config is not decorated with @attrs.frozen(kw_only=True)")
    fields: Any = attrs.fields(config)
    inherited = {field.name for field in attrs.fields(contract.Config)}
    for field in fields:
        hides = field.name not in inherited and hasattr(contract.Config, field.name)  # as LossSchedule.factor
        if field.name == "name" or hides:
            raise UserError(f"Config.{field.name} is a reserved name")
        if field.default is attrs.NOTHING:
            raise UserError(f"Config.{field.name} has no default")
        if type(field.default).__hash__ is None:
            raise UserError(f"Config.{field.name} has a mutable default; use a tuple, or attrs.field(factory=...)")
    typing.get_type_hints(config)  # raises if an annotation names nothing
    config()  # raises if a default is not valid


@attrs.frozen(kw_only=True)
class Plugin:
    """One plugin module, and whether it is used."""

    label: str
    module: str
    broken: str = ""
    """Why nothing of it can be used; empty if it is used or was left out."""
    left_out_by: str = ""
    """The setting that left it out on purpose, such as --no-plugin; empty if nobody did."""

    @property
    def used(self) -> bool:
        """Whether its components are on offer."""
        return not (self.broken or self.left_out_by)

    @property
    def why_not(self) -> str:
        """Why it is not used."""
        return f"left out by {self.left_out_by}" if self.left_out_by else self.broken


@attrs.frozen(kw_only=True)
class Catalog:
    """Everything on offer: kind -> name -> the entries of that name; more than one is a conflict."""

    entries: Mapping[str, Mapping[str, Sequence[Entry]]] = attrs.field(factory=dict[str, Any])
    plugins: tuple[Plugin, ...] = ()
    recorded: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """As in "losses/my-loss" -> the plugin that it came from when the run folder was made."""

    def origins(self) -> dict[str, str]:
        """What `recorded` is to be: the plugins of all names on offer."""
        return {f"{kind}/{name}": found[0].plugin for kind, of in self.entries.items() for name, found in of.items()}

    def names(self, kind: str) -> list[str]:
        """The names on offer, sorted."""
        return sorted(self.entries.get(kind, {}))

    def get(self, kind: str, name: str) -> Entry:
        """The entry of a name.

        Raises:
            UserError: if nobody offers the name (with suggestions and broken plugins), or several plugins do.
        """
        names = self.names(kind)
        if name not in names:
            near, offered = did_you_mean(name, names) or ";", ", ".join(names) or "none"
            message = f"no {noun_of(kind)} named {name!r}{near} available: {offered}"
            if former := self.recorded.get(f"{kind}/{name}"):
                message += f"; this run had it from {former}, which is missing now"
            broken = ", ".join(plugin.label for plugin in self.plugins if not plugin.used)
            raise UserError(message + (f"; plugins not used (see `vco plugins`): {broken}" if broken else ""))
        first, *others = self.entries[kind][name]
        if others:
            plugins = " and ".join(entry.plugin for entry in (first, *others))
            raise UserError(f"{noun_of(kind)} {name!r} is offered by {plugins}; uninstall all but one of them")
        return first
