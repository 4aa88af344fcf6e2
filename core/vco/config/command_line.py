"""From the arguments of `vco-run` to plain data: what was set, and with which option. Nothing is looked up yet.

A layer is flat. "backbone" holds a chosen name and "backbone.depth" an option of it. Where several may be chosen,
"loss" holds a tuple of names and "loss.repa.weight" an option of one; "metric.fd.digits-cnn.weights" is an option of
the encoder that a metric looks through.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from vco.config.plain import Given, is_list, is_mapping
from vco.config.settings import EvalConfig, RunConfig, SampleConfig, TrainConfig
from vco.errors import did_you_mean
from vco.kinds import NONE, SECTIONS, Kind

GROUPS: Final[dict[str, type[Any]]] = {"train": TrainConfig, "sample": SampleConfig, "eval": EvalConfig}
"""Section of settings of the core -> their class."""
SCALARS: Final = [field.name for field in attrs.fields(RunConfig) if field.name not in {*GROUPS, "parts"}]
"""Settings of the core that belong to no section."""
DEFAULT_PRESET: Final = "digits"
SHORT: Final = {"from": "start_from"}
"""Option -> the setting that it is short for."""
FLAGS: Final = {  # flag -> (metavar, help); those without a metavar take no value
    "preset": (
        "NAME",
        f"settings to start from [{DEFAULT_PRESET}, or by --data: its name or size; none with --config]; the last wins",
    ),
    "config": ("FILE", "YAML file on top of the preset, such as a run's config.yaml; of several the last wins"),
    "resume": ("RUN", "go on with the run in this folder, wherever it lies; the same as the folder alone"),
    "name": ("NAME", "run folder runs/NAME"),
    "plugin": ("MODULE", "plugin module that is not installed; may be repeated"),
    "no_plugin": ("NAME", "installed plugin (distribution, entry point or module) to leave out; may be repeated"),
    "dry_run": ("", "check everything, say what would be done, and stop"),
    "gpu_memory": ("GB", "with --dry-run: memory of a GPU to train on; says how many images of this run fit in it"),
    "refresh": ("", "do again what an earlier run in this folder finished"),
    "help": ("", "show this text, with the options of the chosen components"),
}
_AGAIN: Final = re.compile(r"[^:]*(:[a-z0-9]+(-[a-z0-9]+)*)?")
"""A name, with a word of its own or without: the word becomes part of options and of names of tensors."""
Layer = dict[str, Given]
"""Key -> value and where it was given."""


@attrs.frozen(kw_only=True)
class CommandLine:
    """The arguments of `vco-run`, read but not understood."""

    layer: Layer
    """What they set."""
    flags: Mapping[str, Sequence[str]]
    """Flag, as in "no_plugin" -> the values it was given; [""] where it takes none, [] where it was not given."""
    errors: tuple[str, ...]
    """One sentence for every argument that makes no sense."""


def parse(argv: Sequence[str]) -> CommandLine:
    """Reads the arguments of `vco-run`."""
    layer, flags, errors = Layer(), {flag: list[str]() for flag in FLAGS}, list[str]()
    rest = list(argv)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        option = "--help" if option == "-h" else option
        section, *path = option[2:].replace("-", "_").split(".")
        section = SHORT.get(section, section)
        if not option.startswith("-") and not flags["resume"]:
            flags["resume"].append(option + equals + value)
            continue
        if not option.startswith("--") or not section:
            errors.append(f"unexpected argument {option!r}: options are written --option value")
            continue
        takes_value = bool(path) or FLAGS.get(section, ("VALUE",))[0] != ""
        if takes_value and not equals:
            if not rest or rest[0].startswith("--"):
                known = [*FLAGS, *SECTIONS, *GROUPS, *SCALARS, *SHORT]
                hint = "" if section in known else did_you_mean(section, known)
                errors.append(f"{option} needs a value{hint}")
                continue
            value = rest.pop(0)
        elif equals and not takes_value:
            errors.append(f"{option} takes no value")
        if section in flags and not path:
            flags[section].append(value)
        elif section in SECTIONS and SECTIONS[section].several and not path:
            choose_several(layer, SECTIONS[section], value, option, errors)
        else:
            names = [part.replace("_", "-") for part in path[:-1]]  # registered names are kebab-case
            layer[".".join([section, *names, *path[-1:]])] = Given(value, option)
    return CommandLine(layer=layer, flags=flags, errors=tuple(errors))


def from_file(plain: Mapping[str, Any], source: str, errors: list[str]) -> Layer:
    """The layer of a preset or of a configuration file.

    Args:
        plain: what it holds.
        source: what it is called in messages.
        errors: gets one sentence for everything that makes no sense.
    """
    layer: Layer = {}
    for raw_key, value in plain.items():
        key = raw_key.replace("-", "_")
        if key in SECTIONS and SECTIONS[key].several:
            choose_several(layer, SECTIONS[key], value, source, errors)
        elif key in GROUPS or (key in SECTIONS and not isinstance(value, str)):
            options: Any = {} if value is None else value
            if not is_mapping(options):
                errors.append(f"{key}: expected a mapping of options, got {value!r:.60} (from {source})")
                continue
            for name, item in options.items():
                chosen = key in SECTIONS and name == "name"
                layer[key if chosen else f"{key}.{name}".replace("-", "_")] = Given(item, source)
        else:
            layer[key] = Given(value, source)
    return layer


def choose_several(layer: Layer, kind: Kind, value: Any, source: str, errors: list[str]) -> None:
    """Adds components to a section of a layer that may hold several.

    Args:
        layer: what is added to.
        kind: the kind of the components.
        value: "hybrid=10,perceptual", or {name: hybrid, weight: 10}, or a list of these.
        source: where it was given.
        errors: gets one sentence for everything that makes no sense.
    """
    section = kind.section
    names: list[str] = []
    if section in layer:
        names = list(layer[section].value) or [NONE]
    for item in value if is_list(value) else [value]:
        for chosen in _chosen(kind, item, source, errors):
            name = str(chosen["name"]).strip()
            encoders = f"{section}.{name}.encoder"
            if name in names and kind.short_option == "encoder" and "encoder" in chosen and encoders in layer:
                more = tuple(layer[encoders].value) + _as_tuple(chosen["encoder"])  # fd=digits-cnn,fd=digits-vit
                layer[encoders] = Given(more, source)
                continue
            if name in names:
                again = f"; a second one has a word of its own, as in {name},{name}:two" if kind.repeatable else ""
                errors.append(f"{section}: {name!r} is chosen twice (from {source}){again}")
                continue
            if kind.repeatable and not _AGAIN.fullmatch(name):
                errors.append(
                    f"{section}: {name!r} is no name; one that is chosen again is written NAME:WORD, as in "
                    f"{kind.registered(name)}:two (from {source})"
                )
                continue
            names.append(name)
            for key, given in _options(kind, chosen).items():
                layer[f"{section}.{name}.{key}"] = Given(given, source)
    if NONE in names and len(names) > 1:
        errors.append(
            f"{section}: 'none' means no {kind.noun} at all, but {', '.join(names)} are chosen (from {source})"
        )
    layer[section] = Given(tuple(name for name in names if name != NONE), source)


def _chosen(kind: Kind, item: Any, source: str, errors: list[str]) -> list[Mapping[Any, Any]]:
    """What one item chooses: mappings with a name and options."""
    short = kind.short_option
    if is_mapping(item) and isinstance(item.get("name"), str):
        return [item]
    if not isinstance(item, str):
        errors.append(f"{kind.section}: expected names, or mappings with a name, got {item!r:.60} (from {source})")
        return []
    pairs = [part.strip().partition("=") for part in item.split(",")]
    if any(not name or (equals and not value) for name, equals, value in pairs):
        form = f"NAME or NAME={short.upper()}" if short else "NAME"
        lacks = f"a name or {'an' if short[:1] in 'aeiou' else 'a'} {short}" if short else "a name"
        errors.append(f"{kind.section}: {item!r:.60} lacks {lacks}; write {form} (from {source})")
        return []
    if not short and any(equals for _, equals, _ in pairs):
        errors.append(f"{kind.section}: {item!r:.60} sets a value; write names alone, as in a,b (from {source})")
        return []
    return [
        {"name": name} | ({short: (value,) if short == "encoder" else value} if equals else {})
        for name, equals, value in pairs
    ]


def _options(kind: Kind, chosen: Mapping[Any, Any]) -> dict[str, Any]:
    """The options of a choice, flat; a mapping under the name of one of its encoders holds options of that encoder."""
    encoders = _as_tuple(chosen.get("encoder", ())) if kind.short_option == "encoder" else ()
    found: dict[str, Any] = {}
    for key, value in chosen.items():
        if str(key) in encoders and is_mapping(value):
            found |= {f"{key}.{str(name).replace('-', '_')}": item for name, item in value.items()}
        elif key != "name":
            found[str(key).replace("-", "_")] = value
    return found


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """A list as a tuple, and a single text as a tuple of what stands between its commas."""
    return tuple(value) if is_list(value) else tuple(part for part in str(value).split(",") if part)
