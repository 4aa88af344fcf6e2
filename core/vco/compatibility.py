"""Whether the chosen components fit together; every misfit is one sentence, and the user sees all of them at once."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from inspect import get_annotations
from typing import Any, Final

import torch

from vco import api
from vco.api import FEATURES, IMAGE
from vco.config.settings import Part, RunConfig
from vco.errors import UserError, one_line
from vco.kinds import KINDS
from vco.plugins.registry import Catalog

PROBED_STEPS: Final = 4
"""Steps of the sampling path that is looked at."""


def _multiples(of: int, near: int) -> list[int]:
    """The multiples of a number on both sides of another one, 0 left out."""
    below = near // of * of
    return [multiple for multiple in (below, below + of) if multiple]


def is_reserved(loss: str, streams: Iterable[str]) -> bool:
    """Whether a loss of this name would hide a stream, the total, or what all modules have, such as "train"."""
    return loss in {"loss", *streams} or hasattr(torch.nn.ModuleDict, loss)


class Compatibility:
    """Builds components, and collects every misfit between them."""

    def __init__(self, config: RunConfig, catalog: Catalog, origin: Mapping[str, str]) -> None:
        self.config = config
        self.catalog = catalog
        self.origin = origin
        self.problems: list[str] = []

    def build(self, path: str, setting: Any) -> Any:
        """The component chosen at a place of the configuration; it has all that its contract annotates.

        Raises:
            UserError: if it cannot be built, with what was found before.
        """
        part = self.config.part(path)
        try:
            component = part.component(part.config, setting)
            for attribute in get_annotations(getattr(api, KINDS[part.kind].contract)):
                getattr(component, attribute)
        except Exception as error:
            raise UserError("\n".join([*self.problems, self._refusal(part, error)])) from error
        return component

    def _refusal(self, part: Part, error: Exception) -> str:
        if isinstance(error, UserError):
            return error.of(self.name(part.path), self.config.option_of(part.path))
        plugin = self.catalog.get(part.kind, part.registered).plugin
        module = next(known.module for known in self.catalog.plugins if known.label == plugin)
        where = f"{self.name(part.path)} of {plugin} cannot be built"
        return f"{where}: {one_line(error)}; `vco check {module}` tells more"

    def name(self, path: str) -> str:
        """A component as part of a sentence, with where it was chosen: "backbone jit (from --backbone)"."""
        part = self.config.part(path)
        source = self.origin.get(part.section)
        return part.title + (f" (from {source})" if source else "")

    def others(self, kind: str, fits: Callable[[Any], bool]) -> str:
        """Names of the components of a kind whose classes fit."""
        names: list[str] = []
        for name in self.catalog.names(kind):
            with suppress(UserError):
                names += [name] if fits(self.catalog.get(kind, name).load()) else []
        return ", ".join(names) or "none installed"

    def check_streams(self, accepted: set[str], offered: set[str]) -> None:
        """The backbone denoises exactly the image and what the adapter makes."""
        backbone = self.config.part("backbone").component
        if IMAGE not in accepted:
            self.problems.append(
                f"{self.name('backbone')} does not denoise the stream {IMAGE!r}: its author has to add it"
            )
        missing = {*backbone.streams} - {IMAGE, *offered}
        unused = offered - accepted
        if unused:
            names = " or ".join(sorted(unused))
            fitting = self.others("backbones", lambda b: unused <= {*b.streams, *b.optional_streams})
            self.problems.append(
                f"{self.name('adapter')} makes a {names} stream, which {self.name('backbone')} does not have; "
                f"choose a backbone that has ({fitting}), or --adapter none --guidance cfg"
            )
        if missing:
            self.problems.append(
                f"{self.name('backbone')} denoises a {' and a '.join(sorted(missing))} stream, "
                f"which {self.name('adapter')} does not make"
            )

    def check_blocking(self, guidance: api.Guidance, backbone: api.Backbone) -> None:
        """Guidance that blocks attention needs a backbone that obeys."""
        if guidance.needs_blocking and not backbone.supports_blocking:
            fitting = self.others("backbones", lambda b: b.supports_blocking and not isinstance(backbone, b))
            option = f"{backbone.how_to_block}, " if backbone.how_to_block else ""
            self.problems.append(
                f"{self.name('guidance')} blocks attention between streams; {self.name('backbone')} as set cannot; "
                f"choose {option}--guidance cfg or another backbone ({fitting})"
            )

    def check_blocks(self, backbone: api.Backbone) -> None:
        """A backbone whose blocks are to be recomputed or compiled says which modules these are."""
        train = self.config.train
        asked = {
            "--train.checkpoint-blocks recomputes": train.checkpoint_blocks,
            "--train.compile blocks compiles": train.compile == "blocks",
        }
        for option in (option for option, given in asked.items() if given and not backbone.block_modules()):
            self.problems.append(
                f"{option} the blocks of a network, and {self.name('backbone')} does not say which of its modules "
                "these are; leave it out, or have its author add Backbone.block_modules"
            )

    def check_until(self, solver: api.Solver, losses: Mapping[str, api.Loss], backbone: api.Backbone) -> None:
        """Mean velocities need a backbone that is told where a step goes, and a loss that trains them."""
        asking = [self.name(f"loss.{name}") for name, loss in losses.items() if loss.needs_until]
        if solver.needs_until and not asking:
            fitting = self.others("losses", lambda loss: loss.needs_until)
            self.problems.append(
                f"{self.name('solver')} makes steps with mean velocities, which no loss of this run trains; add --loss "
                f"({fitting}) or choose another --solver"
            )
        if (asking or solver.needs_until) and not backbone.supports_until:
            who = asking[0] if asking else self.name("solver")
            fitting = self.others("backbones", lambda b: b.supports_until)
            self.problems.append(
                f"{who} tells the network where a step goes, which {self.name('backbone')} cannot be told; choose "
                f"another backbone ({fitting})"
            )

    def check_path(self, setting: api.ProcessSetting, losses: Mapping[str, api.Loss]) -> None:
        """A loss that trains all streams at one time needs a process that samples them along one path."""
        asking = [self.name(f"loss.{name}") for name, loss in losses.items() if loss.one_time]
        if not asking:
            return
        with torch.device("cpu"):  # components may lie on the meta device, where no two times can be compared
            first, *others = self.build("process", setting).path(PROBED_STEPS).values()
        if any(not torch.equal(first, path) for path in others):
            self.problems.append(
                f"{asking[0]} trains all streams at one time, and {self.name('process')} samples them at different "
                "times; choose --process shared"
            )

    def check_losses(self, losses: Mapping[str, api.Loss], backbone: api.Backbone, streams: set[str]) -> None:
        """Losses read blocks that exist, have a teacher if they ask one, and names that hide nothing."""
        for name, loss in losses.items():
            if beyond := [tap for tap in loss.taps if not 1 <= tap <= backbone.depth]:
                hint = f"; set --loss.{name}.block" if hasattr(loss.config, "block") else ""
                has = f"{self.name('backbone')} has blocks 1 to {backbone.depth}{hint}"
                self.problems.append(f"loss {name} reads block {beyond[0]}, but {has}")
            if lacking := set(loss.needs_context) - set(backbone.hands_out):
                fitting = self.others("backbones", lambda b, wanted=lacking: wanted <= set(b.hands_out))
                self.problems.append(
                    f"{self.name(f'loss.{name}')} needs a backbone that predicts {' and '.join(sorted(lacking))} and "
                    f"is told its own prediction, which {self.name('backbone')} does not; choose --backbone ({fitting})"
                )
            if loss.needs_teacher and not self.config.train.ema_decays:
                self.problems.append(
                    f"loss {name} learns from a running average of the network, and this run keeps none; set "
                    "--train.ema-decays, as in 0.9999"
                )
            if is_reserved(name, streams):
                self.problems.append(f"a loss cannot be called {name!r}; its plugin has to register another name")
        replacing = [name for name, loss in losses.items() if loss.replaces_denoising]
        if len(replacing) > 1:
            self.problems.append(
                f"losses {' and '.join(replacing)} each take the place of the denoising loss; keep one"
            )

    def check_stream_weights(self, streams: set[str]) -> None:
        """Weights are set for streams that the run has."""
        for name in self.config.train.stream_weights.keys() - streams - {FEATURES}:
            known = ", ".join(sorted(streams))
            self.problems.append(f"train.stream_weights names {name!r}, which is no stream of this run ({known})")

    def check_batch(self, processes: int) -> None:
        """A batch can be shared evenly by processes and accumulation steps, and class groups where they are needed.

        An accumulation step holds whole class groups. Processes share them only where every loss that compares samples
        gathers those of the other processes.
        """
        train = self.config.train
        parts = processes * train.accumulation
        if train.batch_size % parts:
            fitting = " or ".join(str(size) for size in _multiples(parts, train.batch_size))
            self.problems.append(
                f"train.batch_size ({train.batch_size}) must be a multiple of processes x train.accumulation "
                f"({parts}), such as {fitting}"
            )
        elif train.samples_per_class and (groups := train.batch_size // train.samples_per_class) % parts:
            losses = self.config.all_of("loss").items()
            whole = [
                name
                for name, part in losses
                if (part.component.grouped or part.component.couples_batch) and not part.component.gathers_mates
            ]
            if not whole and groups % train.accumulation == 0:
                return
            sizes = [count * train.samples_per_class for count in _multiples(parts, groups)]
            sharers = f"{processes} processes x {train.accumulation} accumulation steps"
            why = f" (loss {whole[0]} needs whole groups on a process)" if whole else ""
            self.problems.append(
                f"the {groups} class groups of a batch cannot be shared evenly by {sharers}{why}; set "
                f"--train.batch-size, as to {' or '.join(map(str, sizes))}, or --train.samples-per-class"
            )

    def check_groups(self, data: api.Data) -> None:
        """Losses that need class groups get them, and there are enough classes for them."""
        train = self.config.train
        for name, part in self.config.all_of("loss").items():
            if part.component.grouped and not train.samples_per_class:
                self.problems.append(
                    f"loss {name} needs class-grouped batches: set --train.samples-per-class to a divisor of "
                    f"--train.batch-size ({train.batch_size})"
                )
        if train.samples_per_class and (groups := train.batch_size // train.samples_per_class) > data.num_classes:
            self.problems.append(
                f"a batch of {groups} class groups needs more classes than data {self.config.part('data').name} has "
                f"({data.num_classes}); raise --train.samples-per-class or lower --train.batch-size"
            )

    def raise_problems(self) -> None:
        """Raises `UserError` with every misfit found so far, if there is any."""
        if self.problems:
            raise UserError("\n".join(self.problems))
