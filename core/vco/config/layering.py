"""Settings from several places on top of each other: the last one said holds, and what it replaces is forgotten."""

from collections.abc import Sequence
from typing import Any

import attrs

from vco.config.command_line import Layer
from vco.config.plain import is_list
from vco.errors import UserError
from vco.kinds import SECTIONS
from vco.plugins.registry import Catalog


def stack(layers: Sequence[Layer], catalog: Catalog) -> Layer:
    """The layers on top of each other, the last on top."""
    given: Layer = {}
    for short in layers:
        chosen = {**given, **short}
        layer = {_full_key(key, chosen): item for key, item in short.items()}
        for key in layer.keys() & given.keys():
            if key in SECTIONS or key.endswith(".encoder"):
                _forget(given, key, given[key].value, layer[key].value, catalog)
        given.update(layer)
    return given


def _forget(given: Layer, key: str, former: Any, new: Any, catalog: Catalog) -> None:
    """Drops what lower layers set for components that are no longer chosen.

    Options that both components inherit from one config class (the width of a JiT, the interval of guidance) stay.
    """
    if former == new:
        return
    kept = set[str]()
    if key.endswith(".encoder"):
        gone = [f"{key.removesuffix('encoder')}{name}." for name in set(names_in(former)) - set(names_in(new))]
    elif SECTIONS[key].several:
        gone = [f"{key}.{name}." for name in set(former) - set(new)]
    else:
        gone = [f"{key}."]
        kept = {f"{key}.{name}" for name in _common(SECTIONS[key].name, former, new, catalog)}
    for option in [option for option in given if option.startswith(tuple(gone)) and option not in kept]:
        del given[option]


def _common(kind: str, former: Any, new: Any, catalog: Catalog) -> set[str]:
    """Fields that the configs of two components inherit from the same class."""
    try:
        configs = [catalog.get(kind, str(name)).load().Config for name in (former, new)]
    except UserError:  # said where the new one is loaded
        return set()
    shared = set(configs[0].__mro__) & set(configs[1].__mro__)
    return {name for cls in shared if attrs.has(cls) for name in vars(cls).get("__annotations__", {})}


def _full_key(key: str, given: Layer) -> str:
    """--loss.OPTION means the only loss, and --metric.ENCODER.OPTION the only metric: the key that names it."""
    section, *path = key.split(".")
    kind = SECTIONS.get(section)
    names: Sequence[str] = given[section].value if kind and kind.several and section in given else ()
    if kind is None or len(names) != 1 or not path or (len(path) > 1 and path[0] == names[0]):
        return key
    longest = 2 if kind.short_option == "encoder" else 1
    return ".".join([section, names[0], *path]) if len(path) <= longest else key


def names_in(value: Any) -> tuple[str, ...]:
    """Names in a list, or in a text with commas."""
    return tuple(map(str, value)) if is_list(value) else tuple(part for part in str(value).split(",") if part)
