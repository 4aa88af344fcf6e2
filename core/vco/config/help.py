"""The text of `vco-run --help`: every option of the core and of the chosen components, with value and source."""

import argparse
import typing
from collections.abc import Mapping
from typing import Any

import attrs

from vco.config.command_line import FLAGS, SCALARS, Layer
from vco.config.plain import as_text, field_docs, form
from vco.config.settings import RunConfig
from vco.kinds import SECTIONS
from vco.plugins.registry import Catalog


def help_text(given: Layer, configs: Mapping[str, type[Any]], catalog: Catalog) -> str:
    """The help.

    Args:
        given: what was set, and where.
        configs: place in the configuration, as in "train" or "loss.repa" -> the class of its settings.
        catalog: what is on offer.
    """
    parser = argparse.ArgumentParser(
        prog="vco-run",
        usage="%(prog)s [--preset NAME] [--config FILE] [--SECTION NAME] [--SECTION.OPTION VALUE] ...\n"
        "       %(prog)s FOLDER [--train.steps N] [--SECTION.OPTION VALUE] ...",
        description="Train, sample, evaluate and report; with the FOLDER of a run, go on with it. In brackets: the "
        "value in effect and where it was set.",
        add_help=False,
        allow_abbrev=False,
    )

    def add(group: Any, key: str, metavar: str, text: str, default: Any) -> None:
        value, source = (given[key].value, given[key].source) if key in given else (default, "default")
        text = f"{text} [{as_text(value) or 'empty'}, {source}]".replace("%", "%%")
        group.add_argument("--" + key.replace("_", "-"), metavar=metavar, help=text)

    group = parser.add_argument_group("options")
    for flag, (metavar, text) in FLAGS.items():
        takes: dict[str, Any] = {"metavar": metavar} if metavar else {"action": "store_true"}
        group.add_argument("--" + flag.replace("_", "-"), help=text, **takes)
    group = parser.add_argument_group("components")
    for section, kind in SECTIONS.items():
        metavar = "NAME,..." if kind.several else "NAME"
        add(group, section, metavar, f"{kind.help}: {', '.join(catalog.names(kind.name))}", kind.default)
    _add_fields(parser.add_argument_group("run"), "", RunConfig, add)
    for path, cls in configs.items():
        title = f"{path} {given[path].value}" if path in given and not SECTIONS[path].several else path
        _add_fields(parser.add_argument_group(title), path, cls, add)
    return parser.format_help()


def _add_fields(group: Any, path: str, cls: type[Any], add: Any) -> None:
    """Adds the fields of a class of settings to a group of options."""
    hints, docs = typing.get_type_hints(cls), field_docs(cls)
    defaults = cls() if path else None
    for field in attrs.fields(cls):
        if path or field.name in SCALARS:
            key = f"{path}.{field.name}".lstrip(".")
            add(
                group,
                key,
                form(hints[field.name]),
                docs.get(field.name, ""),
                getattr(defaults, field.name, field.default),
            )
