"""Which folder a run has: the one that is named, or a name made of what is chosen."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from vco.config.command_line import CommandLine, Layer
from vco.config.plain import is_list, locations, sampling_options
from vco.errors import UserError
from vco.kinds import SECTIONS
from vco.plugins.registry import Catalog

NAMING: Final = ("data", "backbone", "adapter", "loss")
"""Sections whose choice stands in the default name."""
LONGEST: Final = 60
"""Characters of other options in the default name; where there are more, a hash stands in their place."""
MAY_CHANGE: Final = (
    "api", "output_dir", "start_from", "log_with", "mixed_precision", "sample.", "eval.", "metric", "solver.",
    "train.steps", "train.on_nan", "train.accumulation", "train.checkpoint_blocks", "train.checkpoint_every",
    "train.compile", "train.encoder_precision", "train.keep_checkpoints", "train.latents", "train.log_every",
    "train.sample_every", "train.sharding", "train.timeout", "train.workers",
)  # fmt: skip
"""Settings that may change when a run goes on: they change nothing that was computed, or only how it is rounded."""


def resumed_run(line: CommandLine, errors: list[str]) -> str:
    """The folder of the run that is to go on; empty if none was named.

    Args:
        line: the command line.
        errors: gets a sentence if there is no run in it, or other options say where or what to train.
    """
    runs = line.flags["resume"]
    if not runs:
        return ""
    if not (Path(runs[0]) / "config.yaml").is_file():
        errors.append(
            f"{runs[0]!r} is not the folder of a run (it has no config.yaml); name one to go on with it, or begin a "
            "new run with options alone, which are written --option value"
        )
        return ""
    given = [f"--{flag}" for flag in ("preset", "config", "name") if line.flags[flag]]
    given += ["--output-dir"] if "output_dir" in line.layer else []
    given += [f"the second run {runs[1]}"] if len(runs) > 1 else []
    if given:
        errors.append(f"the run in {runs[0]} goes on there with its own settings; leave out {' and '.join(given)}")
    return runs[0]


def new_run(line: CommandLine, given: Layer, preset: str, catalog: Catalog) -> str:
    """The folder of a run that was not named as one to go on.

    Args:
        line: the command line.
        given: what it and the layers below it set.
        preset: names of the presets.
        catalog: where components are looked up, to know which options make another run.

    Raises:
        UserError: if the command line names two folders.
    """
    names = line.flags["name"]
    chosen = str(given["output_dir"].value) if "output_dir" in given else ""
    if not names:
        return chosen or _named_by_choices(line, given, preset, catalog)
    if "output_dir" in line.layer or len(names) > 1:
        raise UserError("a run has one folder; give --name NAME, for runs/NAME, or --output-dir FOLDER")
    if not names[0].strip(". "):
        raise UserError("--name needs a name, as in --name first-try")
    return f"runs/{names[0]}"


def _named_by_choices(line: CommandLine, given: Layer, preset: str, catalog: Catalog) -> str:
    """A name that tells runs apart: by what is chosen, and by every option given that makes another run."""
    text = {section: _short(given[section].value) for section in NAMING if section in given}
    parts = [preset or text.get("data"), *(text.get(section) for section in NAMING[1:])]
    parts += [Path(path).stem for path in line.flags["config"]]
    sampled, places = _options(given, catalog)
    usual = "" if line.flags["preset"] else preset  # which already follows from the data
    settings: list[str] = []
    for key, item in sorted(line.layer.items()):
        named = key in NAMING[1:] or (key == "data" and preset in ("", usual))
        free = key.startswith(MAY_CHANGE) and not (key == "start_from" and item.value)
        if not (named or free or key in sampled):
            value = Path(str(item.value)).name if key in places else item.value
            name = {"start_from": "from"}.get(key, key.rpartition(".")[2].replace("_", "-"))
            settings.append(_setting(name, _short(value)))
    more = "-".join(settings)
    if len(more) > LONGEST:
        more = hashlib.sha256(more.encode()).hexdigest()[:8]
    return "runs/" + "-".join(part for part in (*parts, more) if part)


def _options(given: Layer, catalog: Catalog) -> tuple[set[str], set[str]]:
    """The options of the chosen components that act in sampling alone, and those that say where files lie."""
    sampled, places = set[str](), set[str]()
    for section, kind in SECTIONS.items():
        names = given[section].value if section in given else ()
        for name in names if is_list(names) else [names]:
            with suppress(UserError):  # said where the components are loaded
                config: Any = catalog.get(kind.name, kind.registered(str(name))).load().Config
                forms = (section, f"{section}.{name}")  # --loss.OPTION may mean the only loss
                sampled |= {f"{form}.{option}" for form in forms for option in sampling_options(config)}
                places |= {f"{form}.{option}" for form in forms for option in locations(config)}
    return sampled, places


def _setting(name: str, value: str) -> str:
    """An option as a part of a folder's name, without "=", which shells complete badly: "seed1", "schedule-cosine"."""
    joined = name[-1:].isalpha() and value[:1].isdecimal()
    return f"{name}{value}" if joined else f"{name}-{value}"


def _short(value: Any) -> str:
    """A value as a part of a folder's name."""
    text = "+".join(map(str, value)) if is_list(value) else str(value)
    return re.sub(r"[^\w.+-]+", "_", text)
