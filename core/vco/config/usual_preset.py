"""The preset that a command line means which names none: it follows the images."""

import re
from contextlib import suppress
from typing import Any, Final

from vco.config.command_line import DEFAULT_PRESET, CommandLine
from vco.config.plain import build
from vco.kinds import PRESETS
from vco.plugins.registry import Catalog

SIZED: Final = re.compile(r"images(\d+)")
"""Presets for images of a size, as images64."""


def usual_preset(line: CommandLine, catalog: Catalog) -> str:
    """The preset for the largest images that are no larger than those of the data set on the command line.

    Without a data set on the command line, with that of `DEFAULT_PRESET` (they have the same name), or where no preset
    is made for sizes, it is `DEFAULT_PRESET`.
    """
    sizes = sorted(int(found[1]) for name in catalog.names(PRESETS) if (found := SIZED.fullmatch(name)))
    chosen = line.layer.get("data")
    if chosen is None or chosen.value == DEFAULT_PRESET or not sizes:
        return DEFAULT_PRESET
    side = _side(str(chosen.value), line, catalog)
    if side is None:
        return DEFAULT_PRESET
    return f"images{max((size for size in sizes if size <= side), default=sizes[0])}"


def _side(name: str, line: CommandLine, catalog: Catalog) -> int | None:
    """The side of a data set's images; None if it cannot be built."""
    from vco.api import DataSetting

    with suppress(Exception):  # of whatever kind: said where it is built in earnest
        component = catalog.get("data", name).load()
        options = {key.removeprefix("data."): item for key, item in line.layer.items() if key.startswith("data.")}
        config: Any = build(component.Config, options, "data", [])
        if config is not None:
            return component(config, DataSetting()).image_shape[-1]
    return None
