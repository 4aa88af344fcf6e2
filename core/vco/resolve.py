"""From the command line to a `RunConfig`: class defaults < preset < configuration file < command line.

A layer is flat: "backbone" is a chosen name and "backbone.depth" an option of it, "loss" is the tuple of chosen names
and "loss.hybrid.weight" an option of one. A layer that names another plugin drops what lower ones set for the former.
"""

import argparse
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import attrs

from vco.config import Given, as_text, build, field_docs, form, is_list, is_mapping, read_plain, to_plain
from vco.errors import UserError
from vco.plugins import with_modules
from vco.registry import PRESETS, Catalog, did_you_mean, one_line
from vco.settings import Choice, EvalConfig, RunConfig, SampleConfig, TrainConfig

CHOICES: Final = {  # section -> (kind, help)
    "data": ("data", "training and test images"),
    "backbone": ("backbones", "network that denoises the streams"),
    "features": ("features", "frozen encoder that the run is aligned to"),
    "adapter": ("adapters", "map from encoder features to the feature stream"),
    "guidance": ("guidance", "what is hidden in training, and how branches combine in sampling"),
    "process": ("processes", "joint law of the streams' times"),
    "solver": ("solvers", "integrator of sampling"),
    "evaluator": ("features", "frozen encoder in which the Frechet distance is measured"),
    "loss": ("losses", "alignment losses, with weights as in hybrid=10,perceptual=0.5; or none"),
}
PARTS: Final[dict[str, type[Any]]] = {"train": TrainConfig, "sample": SampleConfig, "eval": EvalConfig}
SCALARS: Final = [field.name for field in attrs.fields(RunConfig) if field.name not in {**CHOICES, **PARTS}]
DEFAULT_PRESET: Final = "digits"
FLAGS: Final = {  # flag -> (metavar, help); those without a metavar take no value
    "preset": ("NAME", f"settings to start from [{DEFAULT_PRESET}; none with a --config]; of several the last wins"),
    "config": ("FILE", "YAML, TOML or JSON on top of the preset, as a run's config.yaml; of several the last wins"),
    "plugin": ("MODULE", "plugin module that is not installed; may be repeated"),
    "no_plugin": ("NAME", "installed plugin (distribution, entry point or module) to leave out; may be repeated"),
    "dry_run": ("", "check everything, say what would be done, and stop"),
    "refresh": ("", "do again what an earlier run in this folder finished"),
    "help": ("", "show this text, with the options of the chosen components"),
}
RECORD: Final = "plugins.yaml"
"""File of a run folder: what `Catalog.origins` says."""
_Layer = dict[str, Given]


@attrs.frozen(kw_only=True)
class Invocation:
    """What the command line asks for."""

    config: RunConfig
    catalog: Catalog
    """All plugins, those named with --plugin among them."""
    preset: str
    """Names of the presets, joined by "+"; empty if a configuration file was used without one."""
    dry_run: bool
    refresh: bool
    origin: Mapping[str, str]
    """Section ("backbone") or option ("backbone.depth") -> where it was set; all others have their defaults."""


def resolve(argv: Sequence[str], catalog: Catalog) -> Invocation:
    """Reads the command line of `vco-run`; with --help prints that instead and raises `SystemExit`.

    Raises:
        UserError: with one line for every mistake in any layer, each with its source.
    """
    errors: list[str] = []
    line, flags = _from_argv(argv, errors)
    catalog = with_modules(catalog, flags["plugin"])
    named = (*flags["plugin"], *flags["no_plugin"])
    broken = [item for item in catalog.plugins if item.module in named and item.broken[:8] not in ("", "left out")]
    errors += [f"{plugin.label} cannot be used: {plugin.broken}" for plugin in broken]
    presets = flags["preset"] or ([] if flags["config"] else [DEFAULT_PRESET])
    preset, layers = "+".join(presets), list[_Layer]()
    try:
        for name in presets:
            layers += _from_preset(name, catalog, errors)
        layers += [_from_plain(read_plain(Path(path)), path, errors) for path in flags["config"]]
    except Exception as error:  # also whatever the package of a preset raises at import
        where = "" if isinstance(error, UserError) else f"preset {preset}: "
        raise UserError("\n".join([*errors, where + one_line(error)])) from error
    given: _Layer = {}
    for layer in (*layers, line):
        _stack(given, layer, catalog)

    losses = given.get("loss", Given((), ""))
    text = {key: str(item.value or "") for key, item in given.items()}
    parts = [preset or text.get("data"), text.get("backbone"), text.get("adapter"), "+".join(losses.value)]
    folder = text.get("output_dir") or "runs/" + "-".join(part for part in parts if part)
    for path in (Path(folder), *(Path(path).parent for path in flags["config"])):
        with suppress(UserError):  # the record only words a message
            catalog = attrs.evolve(catalog, recorded={**catalog.recorded, **read_plain(path / RECORD)})
    wanted = {path: given.get(path) for path in CHOICES if path != "loss"}
    wanted |= {f"loss.{name}": Given(name, losses.source) for name in losses.value}
    classes = {path: _load(path, name, catalog, errors) if name else None for path, name in wanted.items()}
    absent = [path for path, name in wanted.items() if name is None]
    if absent and preset:
        errors.append(f"preset {preset} chooses no {', '.join(absent)}; add `base: {DEFAULT_PRESET}` or another to it")
    for path in absent if not preset else ():
        offered = ", ".join(catalog.names(CHOICES[path][0]))
        errors.append(f"{path}: nothing is chosen; use --{path} with one of {offered}, or start from a --preset")
    configs = PARTS | {path: component.Config for path, component in classes.items() if component}
    known = [f"{path}.{field.name}" for path, cls in configs.items() for field in attrs.fields(cls)]
    for key, item in given.items():
        if key not in (*SCALARS, *CHOICES) and key.rpartition(".")[0] not in (*configs, *wanted):
            near = did_you_mean(key, [*known, *SCALARS, *CHOICES, *FLAGS])
            errors.append(f"{key}: unknown option (from {item.source}){near}")
    if flags["help"]:
        if errors:
            raise UserError("\n".join(errors))
        print(_help(given, configs, catalog), end="")
        raise SystemExit(0)

    built: dict[str, Any] = {}
    for path, cls in configs.items():
        options = {key[len(path) + 1 :]: item for key, item in given.items() if key.rpartition(".")[0] == path}
        built[path] = build(cls, options, path, errors)
    chosen = {
        path: Choice(name=name.value, component=component, config=built[path])
        for path, name in wanted.items()
        if name and (component := classes[path])
    }
    ready = {path: chosen.get(path) for path in CHOICES} | {part: built[part] for part in PARTS}
    ready["loss"] = {name: chosen.get(f"loss.{name}") for name in losses.value}
    run = build(RunConfig, {key: given[key] for key in SCALARS if key in given}, "", errors, ready)
    if errors:
        raise UserError("\n".join(errors))
    return Invocation(
        config=attrs.evolve(run, output_dir=run.output_dir or folder),
        catalog=catalog,
        preset=preset,
        dry_run=bool(flags["dry_run"]),
        refresh=bool(flags["refresh"]),
        origin={key: item.source for key, item in given.items()},
    )


def left_out(argv: Sequence[str]) -> list[str]:
    """Plugins that a command line of `vco-run` leaves out: to be known before any plugin is imported."""
    return _from_argv(argv, [])[1]["no_plugin"]


def to_plain_run(run: RunConfig) -> dict[str, Any]:
    """The whole run as plain data, in the shape of config.yaml, which `--config` reads back to an equal run."""

    def plain(value: Any) -> Any:
        return {"name": value.name, **to_plain(value.config)} if isinstance(value, Choice) else to_plain(value)

    names = [field.name for field in attrs.fields(RunConfig) if field.name != "loss"]
    sections = {name: plain(getattr(run, name)) for name in names}
    return sections | {"loss": [plain(choice) for choice in run.loss.values()]}


def _from_argv(argv: Sequence[str], errors: list[str]) -> tuple[_Layer, dict[str, list[str]]]:
    """The layer of the command line, and what each flag was given."""
    layer, flags, rest = _Layer(), {flag: list[str]() for flag in FLAGS}, list(argv)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        option = "--help" if option == "-h" else option
        section, *path = option[2:].replace("-", "_").split(".")
        if not option.startswith("--") or not section:
            errors.append(f"unexpected argument {option!r}: options are written --option value")
            continue
        if path or FLAGS.get(section, ("VALUE",))[0]:
            if not equals and (not rest or rest[0].startswith("--")):
                top = [*FLAGS, *CHOICES, *PARTS, *SCALARS]
                errors.append(f"{option} needs a value{'' if section in top else did_you_mean(section, top)}")
                continue
            value = value if equals else rest.pop(0)
        elif equals:
            errors.append(f"{option} takes no value")
        if section in flags and not path:
            flags[section].append(value)
        elif section == "loss" and not path:
            _put_losses(layer, value, option, errors)
        else:
            name = [part.replace("_", "-") for part in path[:-1]]  # a loss, and names are kebab-case
            layer[".".join([section, *name, *path[-1:]])] = Given(value, option)
    return layer, flags


def _from_preset(name: str, catalog: Catalog, errors: list[str], above: tuple[str, ...] = ()) -> list[_Layer]:
    """The layers of a preset: those of its `base`, if it names one, and its own."""
    if name in above:
        raise UserError(f"preset {name!r} is its own base")
    package, _, path = catalog.get(PRESETS, name).target.partition(":")
    plain = read_plain(files(package) / path)
    base = plain.pop("base", None)
    layers = _from_preset(str(base), catalog, errors, (*above, name)) if base else []
    return [*layers, _from_plain(plain, f"preset {name}", errors)]


def _from_plain(plain: Mapping[str, Any], source: str, errors: list[str]) -> _Layer:
    layer: _Layer = {}
    for raw_key, value in plain.items():
        key = raw_key.replace("-", "_")
        if key == "loss":
            _put_losses(layer, value, source, errors)
        elif key in PARTS or (key in CHOICES and not isinstance(value, str)):
            section: Any = {} if value is None else value
            if not is_mapping(section):
                errors.append(f"{key}: expected a mapping of options, got {value!r:.60} (from {source})")
                continue
            for name, item in section.items():
                option = key if key in CHOICES and name == "name" else f"{key}.{name}".replace("-", "_")
                layer[option] = Given(item, source)
        else:
            layer[key] = Given(value, source)
    return layer


def _put_losses(layer: _Layer, value: Any, source: str, errors: list[str]) -> None:
    """Adds "hybrid=10,perceptual", {name: hybrid, weight: 10}, or a list of these, to the losses of a layer."""
    names: list[str] = (list(layer["loss"].value) or ["none"]) if "loss" in layer else []
    for item in value if is_list(value) else [value]:
        settings: list[Mapping[Any, Any]] = []
        pairs = [part.strip().partition("=") for part in item.split(",")] if isinstance(item, str) else []
        if any(not name or (equals and not weight) for name, equals, weight in pairs):
            errors.append(f"loss: {item!r:.60} lacks a name or a weight; write NAME or NAME=WEIGHT (from {source})")
        elif pairs:
            settings = [{"name": name} | ({"weight": weight} if equals else {}) for name, equals, weight in pairs]
        elif is_mapping(item) and isinstance(item.get("name"), str):
            settings = [item]
        else:
            errors.append(f"loss: expected names, or mappings with a name, got {item!r:.60} (from {source})")
        for setting in settings:
            name = setting["name"].strip()
            if name in names:
                errors.append(f"loss: {name!r} is chosen twice (from {source})")
                continue
            names.append(name)
            options = {str(key).replace("-", "_"): item for key, item in setting.items() if key != "name"}
            layer.update({f"loss.{name}.{key}": Given(item, source) for key, item in options.items()})
    if "none" in names and len(names) > 1:
        errors.append(f"loss: 'none' means no loss at all, but {', '.join(names)} are chosen (from {source})")
    layer["loss"] = Given(tuple(name for name in names if name != "none"), source)


def _stack(given: _Layer, upper: _Layer, catalog: Catalog) -> None:
    """Puts a layer on top; what lower layers set for a component that is no longer chosen goes.

    Options that both components inherit from one config class (the width of a JiT, the interval of guidance) stay.
    """
    for key in upper.keys() & CHOICES.keys() & given.keys():
        former, new = given[key].value, upper[key].value
        if former == new:
            continue
        gone = [f"loss.{name}." for name in set(former) - set(new)] if key == "loss" else [f"{key}."]
        kept = {f"{key}.{name}" for name in _common(CHOICES[key][0], former, new, catalog)} if key != "loss" else set()
        for option in [option for option in given if option.startswith(tuple(gone)) and option not in kept]:
            del given[option]
    given.update(upper)
    losses: list[str] = list(given["loss"].value) if "loss" in given else []
    for key in [key for key in upper if key.startswith("loss.") and key.count(".") == 1 and len(losses) == 1]:
        given[f"loss.{losses[0]}.{key[5:]}"] = given.pop(key)  # --loss.OPTION means the only loss


def _common(kind: str, former: Any, new: Any, catalog: Catalog) -> set[str]:
    """Fields that the configs of two components inherit from the same class."""
    try:
        configs = [catalog.get(kind, str(name)).load().Config for name in (former, new)]
    except UserError:  # said where the new one is loaded
        return set()
    shared = set(configs[0].__mro__) & set(configs[1].__mro__)
    return {name for cls in shared if attrs.has(cls) for name in vars(cls).get("__annotations__", {})}


def _load(path: str, name: Given, catalog: Catalog, errors: list[str]) -> type[Any] | None:
    try:
        return catalog.get(CHOICES[path.partition(".")[0]][0], str(name.value)).load()
    except UserError as error:
        errors.append(f"{path}: {error} (from {name.source})")
        return None


def _help(given: _Layer, configs: Mapping[str, type[Any]], catalog: Catalog) -> str:
    parser = argparse.ArgumentParser(
        prog="vco-run",
        usage="%(prog)s [--preset NAME] [--config FILE] [--SECTION NAME] [--SECTION.OPTION VALUE] ...",
        description="Train, sample, evaluate and report. In brackets: the value in effect and where it was set.",
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
    for section, (kind, text) in CHOICES.items():
        add(group, section, "NAME", f"{text}: {', '.join(catalog.names(kind))}", None)
    groups: dict[str, Any] = {"": RunConfig, **configs}
    for path, cls in groups.items():
        hints, docs = typing.get_type_hints(cls), field_docs(cls)
        group = parser.add_argument_group(f"{path} {given[path].value}" if path in given else path or "run")
        defaults = cls() if path else None
        for field in attrs.fields(cls):
            if path or field.name in SCALARS:
                key, default = f"{path}.{field.name}".lstrip("."), getattr(defaults, field.name, field.default)
                add(group, key, form(hints[field.name]), docs.get(field.name, ""), default)
    return parser.format_help()
