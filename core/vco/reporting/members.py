"""The runs of a comparison: what each has done, which of them are seeds of one configuration, and which are twins."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import takewhile
from typing import Any, Final

import attrs

from vco.config.plain import locations
from vco.config.resolve import to_plain_run
from vco.errors import UserError
from vco.folder import RunFolder, flat
from vco.plugins.registry import Catalog
from vco.reporting.history import History
from vco.reporting.scores import Reading, own, read_scores

SEED: Final = "seed"
APART: Final = (
    SEED, "api", "output_dir", "log_with", "eval.every", "sample.batch_size", "sample.grid_rows", "train.log_every",
    "train.checkpoint_blocks", "train.checkpoint_every", "train.keep_checkpoints", "train.sample_every",
    "train.workers", "train.timeout",
)  # fmt: skip
"""Settings in which runs of one group may differ: the seed, and what changes nothing that is computed."""


@attrs.frozen(slots=False, eq=False)
class Member:
    """One run of a comparison."""

    history: History
    settings: Mapping[str, Any]
    """Its settings, flat, but for places of files."""
    readings: Sequence[Reading]
    """Its own scores: measured and sampled in one way at every step."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.history.folder.path.resolve().name

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.settings[SEED])

    @cached_property
    def configuration(self) -> Mapping[str, Any]:
        """Its settings but for the seed, and for what changes nothing that is computed.

        How long a run is changes nothing of what it does until then, unless the learning rate falls towards its end.
        """
        lasting = {"train.steps"} if self.settings["train.schedule"] == "constant" else set[str]()
        return {key: value for key, value in self.settings.items() if key not in {*APART, *lasting}}


@attrs.frozen(slots=False, eq=False)
class Group:
    """Runs that differ in nothing but the seed."""

    name: str
    members: Sequence[Member]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that its runs share."""
        return self.members[0].configuration


def read_member(folder: RunFolder, catalog: Catalog) -> Member:
    """Reads a run; raises `UserError` if it has no settings or no score."""
    config = folder.read_config(catalog)
    places = {f"{part.path}.{name}" for part in config.parts for name in locations(type(part.config))}
    settings = {key: value for key, value in flat(to_plain_run(config)).items() if key not in places}
    with suppress(UserError):  # a folder without facts.yaml says nothing of them
        contents = folder.read_facts().contents
        settings |= {f"{place}.content": digest for place, digest in contents.items() if place != "data"}
    readings = own(read_scores(folder), folder)
    if not readings:
        raise UserError(
            f"the run in {folder.path} has no score to compare; let it finish with a --metric, or score it with "
            f"vco eval {folder.path}"
        )
    return Member(History(folder), settings, readings)


def without_twins(members: Sequence[Member]) -> tuple[list[Member], list[str]]:
    """The runs without those of equal settings and seed, and a sentence about each of these.

    They are no second seed, whatever their scores. Of several the one that was trained for longest is kept.
    """
    kept: list[Member] = []
    for member in members:
        twin = next((one for one in kept if _is_twin(one, member)), None)
        if twin is None:
            kept.append(member)
        elif member.history.step > twin.history.step:
            kept[kept.index(twin)] = member
    sentences: list[str] = []
    for member in members:
        if all(one is not member for one in kept):
            twin = next(one for one in kept if _is_twin(one, member))
            sentences.append(
                f"{member.history.folder.path} is left out: it has the settings and the seed {member.seed} of "
                f"{twin.history.folder.path}, so it is no second seed"
            )
    return kept, sentences


def _is_twin(one: Member, other: Member) -> bool:
    return one.seed == other.seed and one.configuration == other.configuration


def grouped(members: Sequence[Member]) -> list[Group]:
    """The seeds of each configuration together, in the order in which configurations come up."""
    alike: list[list[Member]] = []
    for member in members:
        same = next((group for group in alike if group[0].configuration == member.configuration), None)
        if same is None:
            alike.append([member])
        else:
            same.append(member)
    for group in alike:
        group.sort(key=lambda member: member.seed)
    names = [_common_name([member.name for member in group]) for group in alike]
    if len(set(names)) < len(names):
        names = [str(group[0].history.folder.path) for group in alike]
    return [Group(name, group) for name, group in zip(names, alike, strict=True)]


def _common_name(names: Sequence[str]) -> str:
    """The name of a run, or what the names of several begin with: "vco-seed1" and "vco-seed2" are "vco"."""
    if len(names) == 1:
        return names[0]
    common = "".join(
        letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    )
    return re.sub(r"[-_.,=+ ]*(seed)?[-_.,=+ ]*$", "", common) or names[0]
