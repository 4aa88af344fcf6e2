"""The preset that a command line means which names none: it follows the images."""

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs

from vco.config.command_line import DEFAULT_PRESET, CommandLine
from vco.config.plain import build
from vco.config.settings import Part
from vco.kinds import PRESETS
from vco.plugins.registry import Catalog

if TYPE_CHECKING:
    from vco.api import Data

SIZED: Final = re.compile(r"images(\d+)")
"""Presets for images of a size, as images64."""


@attrs.frozen(eq=False)
class Listed:
    """The data set, where it had to be built to choose the preset: to list a large folder takes minutes."""

    config: Any = None
    """Its settings."""
    data: "Data | None" = None

    def of(self, part: Part) -> "Data | None":
        """The data set, if it is the chosen one with the same settings."""
        same = self.data is not None and type(self.data) is part.component and self.config == part.config
        return self.data if same else None


def usual_preset(line: CommandLine, catalog: Catalog) -> tuple[str, Listed]:
    """The preset that has the name of the data set on the command line, as `digits` and `clothing32` have.

    Where there is none, it is the one for the largest images that are no larger than those of the data set. Without a
    data set on the command line, or where no preset is made for sizes, it is `DEFAULT_PRESET`.
    """
    sizes = sorted(int(found[1]) for name in catalog.names(PRESETS) if (found := SIZED.fullmatch(name)))
    chosen = line.layer.get("data")
    if chosen is not None and chosen.value in catalog.names(PRESETS):
        return str(chosen.value), Listed()
    if chosen is None or not sizes:
        return DEFAULT_PRESET, Listed()
    listed = _build(str(chosen.value), line, catalog)
    if listed.data is None:
        return DEFAULT_PRESET, listed
    side = listed.data.image_shape[-1]
    return f"images{max((size for size in sizes if size <= side), default=sizes[0])}", listed


def _build(name: str, line: CommandLine, catalog: Catalog) -> Listed:
    """The data set on the command line; nothing if it cannot be built."""
    from vco.api import DataSetting

    with suppress(Exception):  # of whatever kind: said where it is built in earnest
        component = catalog.get("data", name).load()
        options = {key.removeprefix("data."): item for key, item in line.layer.items() if key.startswith("data.")}
        config: Any = build(component.Config, options, "data", [])
        if config is not None:
            data = component(config, DataSetting())
            if data.num_classes and data.image_shape:  # a plugin may lack them
                return Listed(config, data)
    return Listed()
