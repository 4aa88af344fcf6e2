"""Begins a new run with other weights: those of another run, of an exported one, or of a published file."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs
from safetensors import SafetensorError
from torch import Tensor

from vco.config.command_line import Layer, from_file
from vco.config.plain import as_text, read_plain, to_plain
from vco.config.settings import RunConfig
from vco.errors import UserError
from vco.facts import RunFacts
from vco.folder import RunFolder
from vco.run import Run
from vco.storage import checkpoint
from vco.storage.checkpoint import Checkpoint
from vco.storage.hub import ADDRESS, local_path, require_run
from vco.storage.weights import read_weights
from vco.training.matching import match, own_names

TRAINED: Final = ("backbone", "adapter", "guidance", "process")
"""Sections of the components that have weights, beside the losses."""
ON_HUB: Final = re.compile(ADDRESS.pattern + r"(?:@\d+)?")
"""hf://OWNER/NAME or hf://OWNER/NAME@STEP."""
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


@attrs.frozen(kw_only=True)
class _Begun:
    """What a run takes of a source."""

    taken: Mapping[str, Tensor]
    """Name, as in the state dict of an objective -> tensor."""
    initial: Sequence[str]
    """What keeps its initial weights."""
    left_out: Sequence[str]
    """What of the source no part of the run takes."""


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
    given = _find(run.config.start_from, run, lambda folder, step: _load(folder, step, say))
    begun, state = _match(given, run), run.objective.state_dict()
    run.objective.load_state_dict({**state, **begun.taken})
    say(f"begun with {given.title} ({len(begun.taken)} tensors)")
    if begun.initial:
        say(f"not in it, so with initial weights: {', '.join(begun.initial)}")
    if begun.left_out:
        say(f"left out of it: {', '.join(begun.left_out)}")
    adapter = _below("adapter", state)
    return bool(adapter) and adapter.keys() <= begun.taken.keys()


def source_problems(run: Run) -> list[str]:
    """A sentence if what --from names is not there or does not fit the run, which may be on the meta device.

    No weights are read, only their names and shapes; of a run on the Hub it is asked whether it can be fetched.
    """
    source, on_hub = run.config.start_from, ON_HUB.fullmatch(run.config.start_from)
    try:
        if on_hub:
            require_run(on_hub[1])
        elif source:
            _match(_find(source, run, _shapes), run)
    except UserError as error:
        return [f"--from: {error}"]
    return []


def _match(given: _Source, run: Run) -> _Begun:
    """What the run takes of the source; raises `UserError` where a part that both have differs."""
    ours, state = components_of(run.config), run.objective.state_dict()
    taken, initial, left_out = dict[str, Tensor](), list[str](), list[str](given.left_out)
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
    return _Begun(taken=taken, initial=initial, left_out=left_out)


def _find(source: str, run: Run, load: Callable[[RunFolder, int | None], Checkpoint | None]) -> _Source:
    """What --from names; `load` reads the checkpoint of a step, or the newest one."""
    place = local_path(source)
    before, at, number = source.rpartition("@")
    named = bool(at) and number.isdecimal() and not place.exists()
    place, step = (local_path(before), int(number)) if named else (place, None)
    folder = RunFolder(place)
    if not folder.config.is_file():
        if step is None and place.is_file():
            return _of_file(place, run)
        raise UserError(f"{place} is neither the folder of a run nor a file of weights")
    saved = load(folder, step)
    if saved is None:
        raise UserError(f"the run in {folder.path} has no checkpoint yet; let it train first")
    return _of_run(folder, saved)


def _load(folder: RunFolder, step: int | None, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint of a step, or the newest whole one; None if there is none at all."""
    if step is None:
        return checkpoint.load_newest(folder.checkpoints, say)
    return checkpoint.load_step(folder.checkpoints, step)


def _shapes(folder: RunFolder, step: int | None) -> Checkpoint | None:
    """The same with tensors on the meta device: their names and shapes are read, and nothing else."""
    steps = sorted(int(path.name[5:]) for path in folder.checkpoints.glob("step-*") if path.name[5:].isdecimal())
    for here in (one for one in reversed(steps) if step in (None, one)):
        with suppress(OSError, ValueError, SafetensorError):  # damaged: the one before, as when it is loaded
            return checkpoint.outline(folder.checkpoints, here)
    return _load(folder, step, print)  # which says what is wrong


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
