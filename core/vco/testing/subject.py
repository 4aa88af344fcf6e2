"""What is tested: presets, and the components a plugin registers, with small settings and variants of options."""

import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Final, Literal

import attrs

from vco import api
from vco.config import Given, build, of_sampling
from vco.errors import UserError
from vco.hooks import CONTRACTS, PROJECT, SECTIONS
from vco.plugins import with_modules
from vco.registry import PRESETS, Catalog, Entry

SMALL: Final = {
    "width": 16, "depth": 3, "heads": 2, "bottleneck": 8, "patch": 2, "context_tokens": 2, "hidden": 16, "layers": 3,
}  # fmt: skip
"""Options of trained components that are made small where a Config has them and accepts the value."""
SIZES: Final = ("size", "resolution")
"""Further options of size, which stay as they are."""
LARGE: Final = 64
"""Other whole numbers above this are options of size too, and become 16."""
NOWHERE: Final = "/no/such/place"
"""A path at which nothing is."""


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
        """Its section on the command line and its name, as in "loss/hybrid"."""
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
        """`config` with each other choice of each switch and word, each number halved (or doubled), what is off on.

        Options of size stay as they are, and those that all components of the kind have.
        """
        hints = typing.get_type_hints(self.component.Config)
        contract = getattr(api, CONTRACTS[self.entry.kind])
        found: list[Any] = []
        for name in attrs.fields_dict(self.component.Config):
            if name in {*attrs.fields_dict(contract.Config), *SMALL, *SIZES}:
                continue
            now = getattr(self.config, name)
            choices = [choice for choice in _choices(hints[name], now) if choice != now]
            changed = [variant for choice in choices if (variant := _evolved(self.config, {name: choice})) is not None]
            found += changed if typing.get_origin(hints[name]) is Literal else changed[:1]
        return found


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

    @cached_property
    def variants(self) -> list[Any]:
        """None at all."""
        return []


def text_options(component: Any) -> list[str]:
    """Names of a class's options that take any text, such as a path."""
    return [name for name, hint in typing.get_type_hints(component.Config).items() if hint is str]


def elsewhere(component: Any, config: Any) -> dict[str, Any]:
    """Option of text, as in "weights" -> the config in which it says that files lie in `NOWHERE`."""
    changed = {name: _evolved(config, {name: NOWHERE}) for name in text_options(component)}
    return {name.replace("_", "-"): other for name, other in changed.items() if other is not None}


def sampled_otherwise(config: Any) -> Iterator[tuple[str, Any]]:
    """Each option that acts in sampling alone, and `config` with another value of it."""
    hints = typing.get_type_hints(type(config))
    for name in sorted(of_sampling(type(config))):
        now = getattr(config, name)
        for choice in (NOWHERE,) if hints[name] is str else _choices(hints[name], now):
            if choice != now and (other := _evolved(config, {name: choice})) is not None:
                yield name, other


def _choices(hint: Any, now: Any) -> Sequence[Any]:
    """Values that make a component take another way."""
    if hint is bool:
        return (True, False)
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if now is None:
        kinds = typing.get_args(hint)
        return (0.5, 1.0) if float in kinds else (1, 2) if int in kinds else ()
    if type(now) is int:
        return (now // 2, 2 * now)
    return (now / 2 or 0.1, 2 * now) if type(now) is float else ()


def _evolved(config: Any, changes: Mapping[str, Any]) -> Any:
    try:
        return attrs.evolve(config, **changes)
    except Exception:  # any validator's refusal
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
        entries for kind in CONTRACTS for entries in catalog.entries.get(kind, {}).values()
    )
    subjects = [Subject(entry=entry, plugin=name) for entry in entries]
    subjects = [attrs.evolve(subject, settings=settings.get(subject.id, {})) for subject in subjects]
    if unknown := settings.keys() - {subject.id for subject in subjects}:
        raise UserError(f"settings are given for {', '.join(sorted(unknown))}, which {name} does not register")
    presets = catalog.entries.get(PRESETS, {}).values()
    return subjects + [Preset(entry=entry, plugin=name) for entry in itertools.chain.from_iterable(presets)]
