"""What is tested: the components and presets that a plugin registers."""

import itertools
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import attrs

from vco import api
from vco.config.plain import Given, build
from vco.errors import UserError
from vco.hooks import PROJECT
from vco.kinds import KINDS, PRESETS
from vco.plugins.discovery import with_modules
from vco.plugins.registry import Catalog, Entry
from vco.testing.shapes import Shapes, read_shapes


@attrs.frozen(kw_only=True, eq=False, slots=False)
class Subject:
    """One registered component."""

    entry: Entry
    plugin: str
    """Name of the plugin's module."""
    settings: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """Options that its author wants it tested with, and shapes, as in {"streams.features": "16x8"}."""

    notes: dict[Any, Any] = attrs.field(factory=dict[Any, Any])
    """What the cases of its kind have found out about it."""

    @property
    def id(self) -> str:
        """Its section on the command line and its name, as in "loss/hybrid"."""
        return f"{KINDS[self.entry.kind].section}/{self.entry.name}"

    @property
    def contract(self) -> type[Any]:
        """The class in `vco.api` that it implements."""
        return getattr(api, KINDS[self.entry.kind].contract)

    @cached_property
    def component(self) -> Any:
        """Its class; raises `UserError` if it cannot be used."""
        return self.entry.load()

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes that its author gave; raises `UserError` if they make no sense."""
        return read_shapes({name: value for name, value in self.settings.items() if "." in name})

    @property
    def options(self) -> dict[str, Any]:
        """Options that its author gave."""
        return {name: value for name, value in self.settings.items() if "." not in name}

    @cached_property
    def config(self) -> Any:
        """Its default settings, with what the author gave.

        Raises:
            UserError: if a given option or shape is unknown or not valid.
        """
        errors = list[str]()
        given = {name: Given(value, "the contract kit's settings") for name, value in self.options.items()}
        config = build(self.component.Config, given, self.id, errors)
        if errors:
            raise UserError("\n".join(errors))
        self.shapes  # noqa: B018 (raises if a shape makes no sense)
        return config


class Preset(Subject):
    """One registered preset: it has neither class nor options, and the laws of components do not concern it."""

    @property
    def id(self) -> str:
        """The option on the command line and its name, as in "preset/digits"."""
        return f"preset/{self.entry.name}"

    @cached_property
    def component(self) -> None:
        """None."""
        return None

    @cached_property
    def config(self) -> None:
        """None."""
        return None


def discover(plugin: ModuleType | str, settings: Mapping[str, Mapping[str, Any]] | None = None) -> list[Subject]:
    """All components and presets that a plugin registers.

    Args:
        plugin: the module with the hooks, its name, or the name of an entry point.
        settings: component id -> options to test it with, as in {"data/my-data": {"root": "..."}}.

    Raises:
        UserError: if the plugin is broken, registers nothing, or `settings` names no component of it.
    """
    name = plugin if isinstance(plugin, str) else plugin.__name__
    points = {point.name: point.value for point in entry_points(group=PROJECT)}
    name = points.get(name, name)
    catalog = with_modules(Catalog(), [name])
    if broken := catalog.plugins[0].broken:
        raise UserError(f"the plugin {name} cannot be used: {broken}")
    settings = settings or {}
    entries = itertools.chain.from_iterable(
        entries for kind in KINDS for entries in catalog.entries.get(kind, {}).values()
    )
    subjects = [Subject(entry=entry, plugin=name) for entry in entries]
    subjects = [attrs.evolve(subject, settings=settings.get(subject.id, {})) for subject in subjects]
    if unknown := settings.keys() - {subject.id for subject in subjects}:
        raise UserError(f"settings are given for {', '.join(sorted(unknown))}, which {name} does not register")
    presets = catalog.entries.get(PRESETS, {}).values()
    return subjects + [Preset(entry=entry, plugin=name) for entry in itertools.chain.from_iterable(presets)]
