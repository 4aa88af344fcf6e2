"""What is tested: the components a plugin registers, each with small settings and variants of its options."""

import itertools
import typing
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Final, Literal

import attrs

from vco.config import Given, build
from vco.errors import UserError
from vco.hooks import CONTRACTS, PROJECT
from vco.plugins import with_modules
from vco.registry import Catalog, Entry

SECTIONS: Final = {
    "backbones": "backbone",
    "features": "features",
    "adapters": "adapter",
    "losses": "loss",
    "guidance": "guidance",
    "processes": "process",
    "solvers": "solver",
    "data": "data",
}
"""Kind -> its section on the command line, with which a check's id begins."""

SMALL: Final = {
    "width": 16, "depth": 3, "heads": 2, "bottleneck": 8, "patch": 2, "context_tokens": 2, "hidden": 16, "layers": 3,
}  # fmt: skip
"""Options of trained components that are made small where a Config has them and accepts the value."""
LARGE: Final = 64
"""Other whole numbers above this are options of size too, and become 16."""


@attrs.frozen(kw_only=True, eq=False, slots=False)
class Subject:
    """One registered component."""

    entry: Entry
    plugin: str
    """Name of the plugin's module."""
    settings: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """Options that its author wants it tested with."""

    notes: dict[Any, Any] = attrs.field(factory=dict[Any, Any])
    """What the cases of its kind have found out about it."""

    @property
    def id(self) -> str:
        """As in "loss/hybrid"."""
        return f"{SECTIONS[self.entry.kind]}/{self.entry.name}"

    @cached_property
    def component(self) -> Any:
        """Its class; raises `UserError` if it cannot be used."""
        return self.entry.load()

    @cached_property
    def config(self) -> Any:
        """Its default settings, made small, with what the author gave.

        Raises:
            UserError: if a given option is unknown or not valid.
        """
        cls, errors = self.component.Config, list[str]()
        given = {name: Given(value, "the contract kit's settings") for name, value in self.settings.items()}
        config = build(cls, given, self.id, errors)
        if errors:
            raise UserError("\n".join(errors))
        if self.entry.kind not in ("backbones", "adapters", "losses"):
            return config
        small = {name: SMALL[name] for name in attrs.fields_dict(cls) if name in SMALL and name not in self.settings}
        for field in attrs.fields(cls):
            if type(field.default) is int and field.default > LARGE and field.name not in {*small, *self.settings}:
                small[field.name] = 16
        together = _evolved(config, small)
        if together is not None:
            return together
        for name, value in small.items():
            config = _evolved(config, {name: value}) or config
        return config

    @cached_property
    def variants(self) -> list[Any]:
        """`config` with each other choice of each switch and word, and with each option on that is off by default."""
        hints = typing.get_type_hints(self.component.Config)
        found: list[Any] = []
        for field in attrs.fields(self.component.Config):
            name, now = field.name, getattr(self.config, field.name)
            choices = [choice for choice in _choices(hints[name], now) if choice != now] if name != "size" else []
            changed = [variant for choice in choices if (variant := _evolved(self.config, {name: choice})) is not None]
            found += changed if typing.get_origin(hints[name]) is Literal else changed[:1]
        return found


def _choices(hint: Any, now: Any) -> Sequence[Any]:
    """Values that make a component take another way."""
    if hint is bool:
        return (True, False)
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if now is None:
        kinds = typing.get_args(hint)
        return (0.5, 1.0) if float in kinds else (1, 2) if int in kinds else ()
    return (0.1,) if hint is float and now == 0 else ()


def _evolved(config: Any, changes: Mapping[str, Any]) -> Any:
    try:
        return attrs.evolve(config, **changes)
    except Exception:  # any validator's refusal
        return None


def discover(plugin: ModuleType | str, settings: Mapping[str, Mapping[str, Any]] | None = None) -> list[Subject]:
    """All components that a plugin registers.

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
        entries for kind in CONTRACTS for entries in catalog.entries.get(kind, {}).values()
    )
    subjects = [Subject(entry=entry, plugin=name) for entry in entries]
    subjects = [attrs.evolve(subject, settings=settings.get(subject.id, {})) for subject in subjects]
    if unknown := settings.keys() - {subject.id for subject in subjects}:
        raise UserError(f"settings are given for {', '.join(sorted(unknown))}, which {name} does not register")
    return subjects
