"""Begins a new run with other weights: those of another run, of an exported one, or of a published file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from torch import Tensor

from vco.config.command_line import Layer, from_file
from vco.config.plain import as_text, read_plain, to_plain
from vco.config.settings import RunConfig
from vco.errors import UserError
from vco.facts import RunFacts
from vco.folder import RunFolder
from vco.run import Run
from vco.storage import checkpoint
from vco.storage.hub import ADDRESS, local_path
from vco.storage.weights import read_weights
from vco.training.matching import match, own_names

TRAINED: Final = ("backbone", "adapter", "guidance", "process")
"""Sections of the components that have weights, beside the losses."""
TITLES: Final = {"model": "last weights", "ema-0": "first running average"}


@attrs.frozen(kw_only=True)
class _Source:
    """Weights to begin with."""

    title: str
    """Which they are, for messages."""
    tensors: Mapping[str, Tensor]
    """Name, as in the state dict of an objective -> tensor."""
    components: Mapping[str, str]
    """Beginning of such names, as in "losses.repa" -> the component that they belong to."""
    left_out: tuple[str, ...] = ()
    """What else is there that no run can take."""
    folder: RunFolder | None = None
    """The run that they are of."""


def start_from(run: Run, say: Callable[[str], None]) -> bool:
    """Gives a new run the weights that its --from names: RUN, RUN@STEP, hf://OWNER/NAME, or a file of published ones.

    Of a run the first running average is taken, or the last weights if it keeps none.

    Args:
        run: the new run; its weights are changed, all or none.
        say: called with a sentence about what was taken, what keeps its initial weights, and what was left out.

    Returns:
        Whether the adapter came with its weights, and needs no fit.

    Raises:
        UserError: if there is no such thing, it is damaged, or a part that both have has other shapes.
    """
    if not run.config.start_from:
        return False
    given, ours = _find(run.config.start_from, run, say), components_of(run.config)
    state, taken = run.objective.state_dict(), dict[str, Tensor]()
    initial, left_out = list[str](), list[str](given.left_out)
    for place in {**ours, **given.components}:
        own, theirs = (_below(place, tensors) for tensors in (state, given.tensors))
        unfit = _unfit(given.folder, run) if place == "adapter" and own and theirs else ""
        if place != "backbone" and (unfit or ours.get(place) != given.components.get(place)):
            initial += [ours[place]] if own else []
            left_out += [given.components[place] + f" ({unfit})" * bool(unfit)] if theirs else []
            continue
        try:
            found = match(own, theirs)
        except UserError as error:
            raise UserError(
                f"{given.title} does not fit this run: {error}{_other_settings(given.folder, run)}"
            ) from error
        taken |= found.taken
        initial += found.initial
        left_out += found.left_out
    if not _below("backbone", taken):
        raise UserError(f"{given.title} does not fit this run: it has nothing for {ours['backbone']}")
    run.objective.load_state_dict({**state, **taken})
    say(f"begun with {given.title} ({len(taken)} tensors)")
    if initial:
        say(f"not in it, so with initial weights: {', '.join(initial)}")
    if left_out:
        say(f"left out of it: {', '.join(left_out)}")
    adapter = _below("adapter", state)
    return bool(adapter) and adapter.keys() <= taken.keys()


def missing_source(source: str) -> list[str]:
    """A sentence if what --from names is not there; the Hub is not asked."""
    if not source or ADDRESS.match(source):
        return []
    place, step = _place(source)
    if RunFolder(place).config.is_file() or (step is None and place.is_file()):
        return []
    return [f"--from {source}: {place} is neither the folder of a run nor a file of weights"]


def _place(source: str) -> tuple[Path, int | None]:
    """The path that --from names, and the step."""
    place = local_path(source)
    before, at, number = source.rpartition("@")
    named = at and number.isdecimal() and not place.exists()
    return (local_path(before), int(number)) if named else (place, None)


def _find(source: str, run: Run, say: Callable[[str], None]) -> _Source:
    if missing := missing_source(source):
        raise UserError(missing[0])
    place, step = _place(source)
    folder = RunFolder(place)
    if folder.config.is_file():
        if step is None:
            saved = checkpoint.load_newest(folder.checkpoints, say)
        else:
            saved = checkpoint.load_step(folder.checkpoints, step)
        if saved is None:
            raise UserError(f"the run in {folder.path} has no checkpoint yet; let it train first")
        return _of_run(folder, saved)
    return _of_file(place, run)


def _of_file(path: Path, run: Run) -> _Source:
    file = read_weights(path)
    weights = file.first
    title = f"the {TITLES[weights]} of {path}"
    try:
        tensors, left_out = own_names(file, weights, run.objective, run.facts.num_classes)
    except UserError as error:
        backbone = run.config.part("backbone").title
        raise UserError(f"{title} does not fit {backbone} of this run: {error}") from error
    return _Source(title=title, tensors=tensors, components={"backbone": ""}, left_out=tuple(left_out))


def _of_run(folder: RunFolder, saved: checkpoint.Checkpoint) -> _Source:
    components = _components_in(_settings(folder))
    if "published" in saved.state:  # all else has the weights that it was made with, and is not trained
        components = {"backbone": components.get("backbone", "")}
    weights = "ema-0" if saved.state["ema_decays"] else "model"
    tensors: dict[str, Tensor] = {}
    for place in components:
        tensors |= _below(place, saved.tensors[weights])
    return _Source(
        title=f"the {TITLES[weights]} of step {saved.step} of {folder.path}",
        tensors=tensors,
        components=components,
        folder=folder,
    )


def _settings(folder: RunFolder) -> Layer:
    """The settings of another run, whose plugins need not be installed."""
    return from_file(read_plain(folder.config), str(folder.config), [])


def _changed(section: str, folder: RunFolder, run: Run) -> list[str]:
    """The options of a section that another run has otherwise; of another component its name."""
    settings, part, changed = _settings(folder), run.config.part(section), list[str]()
    chosen = settings.get(section)
    if chosen is not None and chosen.value != part.name:
        return [f"--{section} {chosen.value}"]
    for name, value in to_plain(part.config).items():
        theirs = settings.get(f"{section}.{name}")
        if theirs is not None and to_plain(theirs.value) != value:
            changed.append(f"--{section}.{name.replace('_', '-')} {as_text(theirs.value)}")
    return changed


def _other_settings(folder: RunFolder | None, run: Run) -> str:
    """The end of a sentence: what another run has otherwise, in network, adapter and data."""
    if folder is None:
        return ""
    other, facts = [*_changed("backbone", folder, run), *_changed("adapter", folder, run)], _facts(folder)
    if facts is not None and facts.num_classes != run.facts.num_classes:
        other.append(f"{facts.num_classes} classes")
    if facts is not None and facts.image_shape != run.facts.image_shape:
        other.append(f"images of {'x'.join(map(str, facts.image_shape))}")
    return f"; that run has {', '.join(other)}" if other else ""


def _unfit(folder: RunFolder | None, run: Run) -> str:
    """Why what an adapter of the same name has learned or measured there is not right here; empty if it is."""
    facts, adapter = _facts(folder) if folder else None, run.objective.adapter
    before = facts.contents if facts else {}
    for place, digest in run.facts.contents.items():
        if place.startswith("features.") and before.get(place, digest) != digest:
            return f"other weights of {place.removeprefix('features.')}"
    measured = adapter.needs_fit and not any(True for _ in adapter.parameters())
    return ", ".join(_changed("adapter", folder, run)) if folder and measured else ""


def _facts(folder: RunFolder) -> RunFacts | None:
    try:
        return folder.read_facts()
    except UserError:  # an older run has none
        return None


def components_of(config: RunConfig) -> dict[str, str]:
    """The components of a run that may have weights, by the beginnings of their names."""
    names: dict[str, Any] = {section: config.part(section).name for section in TRAINED}
    return _titled({**names, "loss": tuple(config.all_of("loss")), "features": tuple(config.all_of("features"))})


def _components_in(settings: Layer) -> dict[str, str]:
    """The same, from the settings in a folder."""
    return _titled({section: item.value for section, item in settings.items()})


def _titled(chosen: Mapping[str, Any]) -> dict[str, str]:
    titles = {section: f"{section} {chosen[section]}" for section in TRAINED if section in chosen}
    if "adapter" in titles:  # what it has learned is of no use with other encoders
        titles["adapter"] += f" of {' and '.join(chosen.get('features', ())) or 'no features'}"
    return titles | {f"losses.{name}": f"loss {name}" for name in chosen.get("loss", ())}


def _below(place: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a component."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(f"{place}.")}
