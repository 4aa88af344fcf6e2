"""The options of a component, found by their types and their metadata and not by their names."""

import types
import typing
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Literal

import attrs

from vco.api import ReadsFeatures
from vco.config.plain import sampling_options
from vco.testing.shapes import SECOND

NOWHERE: Final = "/no/such/place"
"""A path at which nothing is."""
LARGE: Final = 64
"""Whole numbers above this are sizes."""


def own_options(config: type[Any], contract: type[Any]) -> dict[str, Any]:
    """Name -> type of every option, without those that all components of the kind have.

    Args:
        config: the class of options.
        contract: the class in `vco.api` that the component implements.
    """
    shared = {*attrs.fields_dict(contract.Config), *attrs.fields_dict(ReadsFeatures)}
    hints = typing.get_type_hints(config)
    return {name: hints[name] for name in attrs.fields_dict(config) if name not in shared}


def is_whole_number(hint: Any) -> bool:
    """Whether an option is a whole number, or one that may be left out."""
    return hint is int or (isinstance(hint, types.UnionType) and set(typing.get_args(hint)) == {int, types.NoneType})


def is_text(hint: Any) -> bool:
    """Whether an option takes any text, such as a path."""
    return hint is str


def evolved(config: Any, **changes: Any) -> Any:
    """The config with other values; None if it refuses them."""
    try:
        return attrs.evolve(config, **changes)
    except Exception:  # any validator's refusal
        return None


def without_large_numbers(config: Any, contract: type[Any], given: Collection[str]) -> Any:
    """The config with each whole number above 64 made 16, if that is accepted and nobody gave it: it is a size."""
    for name, hint in own_options(type(config), contract).items():
        now = getattr(config, name)
        if is_whole_number(hint) and now is not None and now > LARGE and name not in given:
            config = config if (smaller := evolved(config, **{name: 16})) is None else smaller
    return config


def variants(config: Any, contract: type[Any], fixed: Collection[str]) -> list[Any]:
    """A config with each other choice of each switch and word, each number halved (or doubled), what is off on.

    Args:
        config: what is varied, one option at a time.
        contract: the class in `vco.api` that the component implements.
        fixed: names of options that stay as they are.
    """
    found: list[Any] = []
    for name, hint in own_options(type(config), contract).items():
        if name in fixed:
            continue
        now = getattr(config, name)
        others = [evolved(config, **{name: choice}) for choice in _choices(hint, now) if choice != now]
        accepted = [other for other in others if other is not None]
        found += accepted if typing.get_origin(hint) is Literal else accepted[:1]
    if isinstance(config, ReadsFeatures) and "features" not in fixed:
        found.append(attrs.evolve(config, features=SECOND))
    return found


def elsewhere(config: Any) -> dict[str, Any]:
    """Option of text, as in "weights" -> the config in which it says that files lie in `NOWHERE`."""
    names = [name for name, hint in typing.get_type_hints(type(config)).items() if is_text(hint)]
    changed = {name: evolved(config, **{name: NOWHERE}) for name in names}
    return {name.replace("_", "-"): other for name, other in changed.items() if other is not None}


def sampled_otherwise(config: Any) -> Iterator[tuple[str, Any]]:
    """Each option that acts in sampling alone, and the config with another value of it."""
    hints = typing.get_type_hints(type(config))
    for name in sorted(sampling_options(type(config))):
        now = getattr(config, name)
        for choice in (NOWHERE,) if is_text(hints[name]) else _choices(hints[name], now):
            if choice != now and (other := evolved(config, **{name: choice})) is not None:
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
    return (now / 2 or 0.5, 2 * now or 0.1) if type(now) is float else ()
