"""From a command line to a `RunConfig`: class defaults < preset < configuration file < command line.

`parse(argv)` reads the arguments, `load_catalog` finds the plugins, and `resolve` does the rest in four stages: it puts
the layers on top of each other, finds out which components are chosen, loads their classes, and builds their configs. A
layer that names another component drops what lower layers set for the former.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from vco.config.command_line import DEFAULT_PRESET, FLAGS, GROUPS, SCALARS, CommandLine, Layer, from_file
from vco.config.help import help_text
from vco.config.layering import names_in, stack
from vco.config.placement import new_run, resumed_run
from vco.config.plain import Given, build, read_plain, to_plain, unsupported
from vco.config.settings import Part, RunConfig
from vco.config.usual_preset import Listed, usual_preset
from vco.errors import UserError, did_you_mean, one_line
from vco.kinds import KINDS, NONE, PRESETS, SECTIONS
from vco.plugins.discovery import with_modules
from vco.plugins.registry import Catalog

if TYPE_CHECKING:
    from vco.api import Data

RECORD: Final = "plugins.yaml"
"""File of a run folder: what `Catalog.origins` says."""


@attrs.frozen(kw_only=True)
class Invocation:
    """What the command line asks for."""

    config: RunConfig
    catalog: Catalog
    """All plugins, those named with --plugin among them."""
    preset: str
    """Names of the presets, joined by "+"; empty if a configuration file was used without one."""
    dry_run: bool
    gpu_memory: float | None
    """GB of a GPU, to which a dry run is to fit the batch; None if it was not given."""
    refresh: bool
    resume: bool
    """Whether a run folder was named that is to go on."""
    origin: Mapping[str, str]
    """Section ("backbone") or option ("backbone.depth") -> where it was set; all others have their defaults."""
    data: "Data | None" = None
    """The data set, if the preset was chosen by its images."""


@attrs.frozen(kw_only=True)
class _Chosen:
    """A component that is chosen, before its class is loaded."""

    path: str
    kind: str
    name: str
    source: str


def resolve(line: CommandLine, catalog: Catalog) -> Invocation:
    """Finds out what a command line asks for; with --help prints that instead and raises `SystemExit`.

    Raises:
        UserError: with one line for every mistake in any layer, each with its source.
    """
    errors = list(line.errors)
    catalog = with_modules(catalog, line.flags["plugin"])
    named = {*line.flags["plugin"], *line.flags["no_plugin"]}
    errors += [
        f"{item.label} cannot be used: {item.broken}"
        for item in catalog.plugins
        if item.module in named and item.broken
    ]
    resumed = resumed_run(line, errors)
    files = [f"{resumed}/config.yaml"] if resumed else line.flags["config"]
    presets, listed = line.flags["preset"], Listed()
    if not presets and not files:
        usual, listed = usual_preset(line, catalog)
        presets = [usual]
    preset = "+".join(presets)

    given = stack([*_layers_below(presets, files, catalog, errors), line.layer], catalog)
    folder = resumed or new_run(line, given, preset, catalog)
    catalog = _with_records(catalog, [Path(folder), *(Path(path).parent for path in files)])
    chosen = _choices(given, preset, catalog, errors)
    classes = {part.path: _load(part, catalog, errors) for part in chosen}
    configs = GROUPS | {path: component.Config for path, component in classes.items() if component}
    _refuse_unknown(given, [part.path for part in chosen], configs, errors)
    if line.flags["help"]:
        if errors:
            raise UserError("\n".join(errors))
        print(help_text(given, configs, catalog), end="")
        raise SystemExit(0)

    built = {path: build(cls, _options_of(path, given, classes), path, errors) for path, cls in configs.items()}
    parts = tuple(
        Part(path=part.path, kind=part.kind, name=part.name, component=component, config=built[part.path])
        for part in chosen
        if (component := classes[part.path])
    )
    ready = {"parts": parts, **{group: built[group] for group in GROUPS}}
    gpu_memory = _gpu_memory(line, errors)
    run = build(RunConfig, {key: given[key] for key in SCALARS if key in given}, "", errors, ready)
    if errors:
        raise UserError("\n".join(errors))
    return Invocation(
        config=attrs.evolve(run, output_dir=folder),
        catalog=catalog,
        preset=preset,
        dry_run=bool(line.flags["dry_run"]),
        gpu_memory=gpu_memory,
        refresh=bool(line.flags["refresh"]),
        resume=bool(resumed),
        origin={key: item.source for key, item in given.items()},
        data=listed.of(run.part("data")),
    )


def _gpu_memory(line: CommandLine, errors: list[str]) -> float | None:
    """The memory of a GPU that --gpu-memory states, in GB."""
    for text in line.flags["gpu_memory"][-1:]:
        if not line.flags["dry_run"]:
            errors.append("--gpu-memory is for a dry run, which says what fits; add --dry-run, or leave it out")
        try:
            size = float(text)
            if 0 < size < float("inf"):
                return size
        except ValueError:
            pass
        errors.append(f"--gpu-memory {text}: expected the memory of a GPU in GB, as in 80")
    return None


def to_plain_run(run: RunConfig) -> dict[str, Any]:
    """The whole run as plain data, in the shape of config.yaml, which `--config` reads back to an equal run."""

    def plain(part: Part) -> dict[str, Any]:
        encoders = run.encoders_of(part.name) if part.section == "metric" else {}
        return {"name": part.name, **to_plain(part.config), **{n: to_plain(e.config) for n, e in encoders.items()}}

    sections: dict[str, Any] = {"api": API_OF_FILES}
    sections |= {key: to_plain(getattr(run, key)) for key in (*SCALARS, *GROUPS)}
    for section, kind in SECTIONS.items():
        if kind.several:
            sections[section] = [plain(part) for part in run.all_of(section).values()]
        else:
            sections[section] = plain(run.part(section))
    return sections


# ------------------------------------------------------------------------------------------------------------- layers

API_OF_FILES: Final = 2
"""What config.yaml says under "api": a file of another version is refused, because its settings mean other things."""


def _layers_below(presets: Sequence[str], files: Sequence[str], catalog: Catalog, errors: list[str]) -> list[Layer]:
    """The layers of presets and configuration files, the lowest first."""
    layers: list[Layer] = []
    try:
        for name in presets:
            layers += _from_preset(name, catalog, errors)
        for path in files:
            layers.append(from_file(_checked(read_plain(Path(path)), path), path, errors))
    except Exception as error:  # also whatever the package of a preset raises at import
        where = "" if isinstance(error, UserError) else f"preset {'+'.join(presets)}: "
        raise UserError("\n".join([*errors, where + one_line(error)])) from error
    return layers


def _checked(plain: dict[str, Any], path: str) -> dict[str, Any]:
    """The content of a configuration file, if it was written for this version."""
    version = plain.pop("api", 1 if "evaluator" in plain else API_OF_FILES)
    if version != API_OF_FILES:
        raise UserError(
            f"{path} was written for version {version!r:.20} of vco's settings, and this vco reads version "
            f"{API_OF_FILES}: "
            'use the vco that wrote it, or write its settings anew (docs/changelog.md, "From API 1 to API 2")'
        )
    return plain


def _from_preset(name: str, catalog: Catalog, errors: list[str], above: tuple[str, ...] = ()) -> list[Layer]:
    """The layers of a preset: those of its `base`, if it names one, and its own."""
    if name in above:
        raise UserError(f"preset {name!r} is its own base")
    package, _, path = catalog.get(PRESETS, name).target.partition(":")
    plain = read_plain(files(package) / path)
    base = plain.pop("base", None)
    layers = _from_preset(str(base), catalog, errors, (*above, name)) if base else []
    return [*layers, from_file(plain, f"preset {name}", errors)]


def _with_records(catalog: Catalog, folders: Sequence[Path]) -> Catalog:
    """The catalog with what run folders have recorded, which words the message about a plugin that is gone."""
    recorded = dict(catalog.recorded)
    for folder in folders:
        with suppress(UserError):
            recorded |= read_plain(folder / RECORD)
    return attrs.evolve(catalog, recorded=recorded)


# --------------------------------------------------------------------------------------------------------- components


def _choices(given: Layer, preset: str, catalog: Catalog, errors: list[str]) -> list[_Chosen]:
    """Every chosen component, in the order of the kinds."""
    chosen: list[_Chosen] = []
    absent: list[str] = []
    for section, kind in SECTIONS.items():
        item = given.get(section)
        if item is None and kind.default is None:
            absent.append(section)
            continue
        default = () if kind.default == NONE else (kind.default,)
        names = default if item is None else item.value if kind.several else (item.value,)
        source = "default" if item is None else item.source
        for name in map(str, names):
            path = f"{section}.{name}" if kind.several else section
            chosen.append(_Chosen(path=path, kind=kind.name, name=name, source=source))
            encoders = given.get(f"{path}.encoder") if kind.short_option == "encoder" else None
            if encoders is not None:
                chosen += _encoders(path, name, encoders, errors)
    if absent and preset:
        errors.append(f"preset {preset} chooses no {', '.join(absent)}; add `base: {DEFAULT_PRESET}` or another to it")
    for section in absent if not preset else ():
        offered = ", ".join(catalog.names(SECTIONS[section].name))
        errors.append(f"{section}: nothing is chosen; use --{section} with one of {offered}, or start from a --preset")
    return chosen


def _encoders(path: str, metric: str, given: Given, errors: list[str]) -> list[_Chosen]:
    """The encoders that a metric looks through."""
    counts = Counter(names_in(given.value))
    errors += [
        f"metric: {metric!r} looks through the encoder {name!r} twice (from {given.source})"
        for name, count in counts.items()
        if count > 1
    ]
    return [_Chosen(path=f"{path}.{name}", kind="features", name=name, source=given.source) for name in counts]


def _load(part: _Chosen, catalog: Catalog, errors: list[str]) -> type[Any] | None:
    try:
        component = catalog.get(part.kind, KINDS[part.kind].registered(part.name)).load()
    except UserError as error:
        errors.append(
            f"{part.path.partition('.')[0] if part.kind != 'losses' else part.path}: {error} (from {part.source})"
        )
        return None
    for name, kind in unsupported(component.Config).items():
        errors.append(
            f"{part.path}.{name}: {part.name} declares it as {kind}, which no configuration file can hold; its author "
            "has to use bool, int, float, str, Literal, X | None, tuple[X, ...] or Mapping[str, X]"
        )
        return None
    return component


def _options_of(path: str, given: Layer, classes: Mapping[str, Any]) -> dict[str, Given]:
    """The options that were given for a component or a section of the core, by their names."""
    return {
        key[len(path) + 1 :]: item
        for key, item in given.items()
        if key.rpartition(".")[0] == path and key not in classes
    }


def _refuse_unknown(given: Layer, chosen: Sequence[str], configs: Mapping[str, type[Any]], errors: list[str]) -> None:
    """One sentence for every key that belongs to nothing."""
    known = [f"{path}.{field.name}" for path, cls in configs.items() for field in attrs.fields(cls)]
    for key, item in given.items():
        owner = key.rpartition(".")[0]
        if key in (*SCALARS, *SECTIONS) or owner in (*configs, *chosen):
            continue
        several = [path for path in chosen if path.startswith(f"{owner}.")] if owner in SECTIONS else []
        if several:
            forms = " or ".join(f"--{path}.{key.rpartition('.')[2]}" for path in several)
            errors.append(f"{key}: several are chosen; say which one is meant, as in {forms} (from {item.source})")
            continue
        near = did_you_mean(key, [*known, *SCALARS, *SECTIONS, *FLAGS])
        errors.append(f"{key}: unknown option (from {item.source}){near}")
