"""The folder of a run: where everything lies, who may write to it, and whether it holds the run that is asked for."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import attrs
import yaml

from vco.config.command_line import parse
from vco.config.placement import MAY_CHANGE
from vco.config.plain import locations, read_plain, sampling_options
from vco.config.resolve import RECORD, Invocation, resolve, to_plain_run
from vco.config.settings import RunConfig
from vco.errors import UserError
from vco.facts import RunFacts
from vco.plugins.registry import Catalog
from vco.storage.files import lock, write_atomic
from vco.storage.metrics_file import read_lines


@attrs.frozen
class RunFolder:
    """A run on disk. Nothing is created before `claim`."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def plugins(self) -> Path:
        """Which plugin had which name."""
        return self.path / RECORD

    @property
    def facts(self) -> Path:
        """What the run's data set and encoders look like."""
        return self.path / "facts.yaml"

    @property
    def metrics(self) -> Path:
        """Every logged value, a line of JSON per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def evals(self) -> Path:
        """The scores measured during training, a line of JSON each."""
        return self.path / "evals.jsonl"

    @property
    def eval(self) -> Path:
        """The newest score after training, and all that it depends on."""
        return self.path / "eval.json"

    @property
    def report(self) -> Path:
        """The page that shows everything."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The newest checkpoints, a folder each."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The sample grids."""
        return self.path / "samples"

    @property
    def real(self) -> Path:
        """Training images in the order of the sample grids."""
        return self.samples / "real.png"

    @property
    def trajectory(self) -> Path:
        """How some samples come out of noise."""
        return self.samples / "trajectory.png"

    @property
    def cost(self) -> Path:
        """The size of the model, and the work of training it with one image."""
        return self.path / "cost.json"

    @property
    def sessions(self) -> Path:
        """How the run was started, a line of JSON for every time that it was begun or went on."""
        return self.path / "sessions.jsonl"

    @property
    def bad_images(self) -> Path:
        """Images that could not be read, a sentence each; another one was read in its place."""
        return self.path / "bad-images.txt"

    @property
    def trained(self) -> bool:
        """Whether there is anything that was trained."""
        return any(self.checkpoints.glob("step-*"))

    @property
    def newest_step(self) -> int:
        """The last step that was saved; 0 if none was."""
        names = (path.name[5:] for path in self.checkpoints.glob("step-*"))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    @property
    def writable(self) -> bool:
        """Whether files can be made in it; True of one that is not there yet."""
        return not self.path.is_dir() or os.access(self.path, os.W_OK)

    def grid(self, step: int) -> Path:
        """The sample grid of a step."""
        return self.samples / f"step-{step:08d}.png"

    def grids(self) -> dict[int, Path]:
        """Step -> its sample grid, in the order of steps; files of other names are left out."""
        found = {path.stem.removeprefix("step-"): path for path in self.samples.glob("step-*.png")}
        return dict(sorted((int(step), path) for step, path in found.items() if step.isdecimal()))

    def records(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl."""
        return list(read_lines(self.metrics).values())

    def score(self) -> dict[str, Any] | None:
        """What eval.json holds; None if there is none that can be read."""
        if not self.eval.is_file():  # also of a pipe, which would be read for ever
            return None
        try:
            found = json.loads(self.eval.read_text())
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def read_config(self, catalog: Catalog, options: Sequence[str] = ()) -> RunConfig:
        """The settings that the folder was made with; options that are new since then have their defaults.

        Args:
            catalog: the plugins on offer.
            options: arguments of `vco-run` to set on top of them.

        Raises:
            UserError: if there is no configuration in it, or one that this version cannot use.
        """
        if not self.config.is_file():
            raise UserError(f"{self.path} is not the folder of a run: it has no config.yaml")
        return resolve(parse(["--config", str(self.config), *options]), catalog).config

    def read_facts(self) -> RunFacts:
        """What the run's data set and encoders look like.

        Raises:
            UserError: if the file is missing or damaged.
        """
        try:
            return RunFacts.read(read_plain(self.facts))
        except UserError as error:
            raise UserError(
                f"{self.facts} cannot be used ({error}); start the run again with its own command, which writes it"
            ) from error

    def claim(self, invocation: Invocation) -> IO[str]:
        """Locks the folder; what failed there before its first checkpoint binds nobody.

        Returns:
            What holds the lock until it is closed.

        Raises:
            UserError: if it cannot be written, is in use, or holds another run (the differences are shown).
        """
        held = lock(self.path)
        try:
            self.refuse_another_run(invocation)
        except UserError:
            held.close()
            raise
        return held

    def record(self, invocation: Invocation, facts: RunFacts) -> None:
        """Writes the settings, the facts and what the names came from, once they are true of what the folder holds."""
        write_atomic(self.facts, yaml.safe_dump(facts.plain(), sort_keys=False))
        write_atomic(self.config, yaml.safe_dump(to_plain_run(invocation.config), sort_keys=False))
        write_atomic(self.plugins, yaml.safe_dump(invocation.catalog.origins()))

    def earlier_sessions(self) -> list[dict[str, Any]]:
        """How the run was started, each time; lines that cannot be read are left out."""
        found: list[dict[str, Any]] = []
        text = self.sessions.read_text(errors="replace") if self.sessions.exists() else ""
        for line in text.splitlines():
            with suppress(ValueError, RecursionError):
                session = json.loads(line)
                found += [session] if isinstance(session, dict) else []
        return found

    def begin_session(self, session: Mapping[str, Any]) -> None:
        """Notes how the run was started this time."""
        with self.sessions.open("a") as file:
            file.write(json.dumps(session) + "\n")

    def other_settings(self, invocation: Invocation) -> list[str]:
        """The options of the command line whose values are not those that the folder has, but for its place."""
        before, now = (flat(to_plain_run(run)) for run in (self.read_config(invocation.catalog), invocation.config))
        return sorted(key for key in now if before.get(key) != now[key] and key != "output_dir")

    def refuse_another_run(self, invocation: Invocation) -> None:
        """Raises `UserError` if the folder holds another run than the one that is asked for."""
        trained = self.trained
        if not self.config.exists():
            if trained:
                raise UserError(f"{self.path} holds checkpoints but no config.yaml; choose another --output-dir")
            return
        try:
            before = self.read_config(invocation.catalog)
        except UserError as error:
            problem = f"{self.config} cannot be used; put it right or choose another --output-dir:"
            raise UserError("\n".join([problem, *(f"  {line}" for line in str(error).splitlines())])) from error
        changed = differences(before, invocation.config)
        if changed and trained:
            lines = [f"  {key}: {there} there, {here} here" for key, (there, here) in changed.items()]
            problem = f"{self.path} holds a run with other settings; choose another --name or --output-dir:"
            raise UserError("\n".join([problem, *lines]))


def differences(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The settings in which two runs differ and which may not change in the midst of one: key -> both values."""
    old, new = flat(to_plain_run(before)), flat(to_plain_run(now))
    free = {
        f"{part.path}.{name}"
        for part in now.parts
        for name in sampling_options(type(part.config)) | locations(type(part.config))
    }
    # a falling learning rate depends on the number of steps at which it arrives
    bound = {"train.steps"} if now.train.schedule != "constant" else set[str]()
    may_change = (*MAY_CHANGE, *(f"{option}." for option in free))  # an option may be a mapping
    return {
        key: (old.get(key, "(not set)"), new.get(key, "(not set)"))
        for key in sorted((old.keys() | new.keys()) - free)
        if old.get(key) != new.get(key) and (key in bound or not key.startswith(may_change))
    }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 5}} -> {"train.steps": 5}; a list of components is flattened by their names."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        order = {f"{prefix}.order": [item["name"] for item in value]} if len(value) > 1 else {}
        return order | flat({item["name"]: item for item in value}, prefix)
    if not isinstance(value, dict):
        return {prefix: value}
    parts = [flat(part, f"{prefix}.{key}".lstrip(".")) for key, part in value.items()]
    return {path: leaf for part in parts for path, leaf in part.items()}
