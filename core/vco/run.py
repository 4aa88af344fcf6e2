"""Assembly: puts the chosen components together, after checking that they fit, before anything heavy starts."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from inspect import get_annotations
from pathlib import Path
from typing import Any

import attrs
import torch

from vco import api
from vco.api import FEATURES, PIXELS
from vco.errors import UserError
from vco.hooks import CONTRACTS
from vco.objective import Objective
from vco.registry import Catalog, one_line
from vco.resolve import CHOICES
from vco.settings import Choice, RunConfig


@attrs.frozen(kw_only=True)
class Run:
    """The components of a run. Weights are initialised (or on the meta device); nothing has been read from disk."""

    config: RunConfig
    data: api.Data
    objective: Objective
    solver: api.Solver
    evaluator: api.FeatureSource

    @property
    def sources(self) -> dict[str, api.FeatureSource]:
        """The frozen networks this run needs, by the name of their section."""
        sources = {"evaluator": self.evaluator}
        if self.objective.source is not None:
            sources["features"] = self.objective.source
        return sources

    def load(self) -> None:
        """Loads the frozen encoders; raises `UserError` if one cannot be."""
        for section, source in self.sources.items():
            name = f"{section} {getattr(self.config, section).name}"
            try:
                source.load()
            except UserError as error:
                raise UserError(error.of(name, section)) from error
            except Exception as error:  # files of any kind, read by code of anybody
                raise UserError(f"{name} cannot be loaded: {one_line(error)}") from error
            source.requires_grad_(False).eval()

    def missing(self) -> list[str]:
        """One sentence for every file that the run needs and cannot find."""
        problems: list[str] = []
        for section, part in {"data": self.data, **self.sources}.items():
            try:
                part.check()
            except UserError as error:
                problems.append(error.of(self.config.named(section), section))
        weak = self.objective.guidance.weak_run
        if weak is not None and not (Path(weak) / "config.yaml").is_file():
            needs = f"guidance {self.config.guidance.name} needs the folder of a finished run of a weaker model"
            problems.append(f"{needs} (--guidance.run); {f'there is none in {weak}' if weak else 'none is given'}")
        return problems


def assemble(
    config: RunConfig,
    catalog: Catalog,
    origin: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> Run:
    """Builds every component of a run.

    Args:
        config: what was chosen.
        catalog: where other components are looked up, to name those that would fit.
        origin: section -> where its choice came from ("--backbone", "preset digits"), for messages.
        device: where the weights are created; "meta" costs nothing.
        processes: training processes that share a batch.

    Raises:
        UserError: with one sentence for every misfit between the components.
    """
    fit = _Fit(config, catalog, origin or {})
    fit.check_batch(processes)
    data: api.Data = fit.build("data")
    specs = {PIXELS: api.StreamSpec(shape=data.image_shape)}
    evaluator: api.FeatureSource = fit.build("evaluator", image_shape=data.image_shape)
    fit.check_groups(data)

    accepted = {*config.backbone.component.streams, *config.backbone.component.optional_streams}
    read_by_loss = any(choice.component.needs_features for choice in config.loss.values())
    needed = read_by_loss or accepted != {PIXELS} or config.adapter.component.needs_stream
    with torch.device(device):
        torch.manual_seed(config.seed)
        source: api.FeatureSource | None = fit.build("features", image_shape=data.image_shape) if needed else None
        features = source.spec if source else None
        # an adapter that idles needs some input to be built for
        adapter: api.Adapter = fit.build("adapter", features=features or api.StreamSpec(shape=(1, 1), grid=(1, 1)))
        offered = adapter.specs() if adapter.needs_stream or adapter.specs().keys() <= accepted else {}
        fit.check_streams(accepted, set(offered))
        specs |= offered
        guidance: api.Guidance = fit.build("guidance", streams=specs, num_classes=data.num_classes)
        fit.raise_problems()
        process: api.Process = fit.build("process", streams=tuple(specs))
        backbone: api.Backbone = fit.build("backbone", streams=specs, num_classes=data.num_classes)
        built: dict[str, api.Loss] = {
            name: fit.build(f"loss.{name}", width=backbone.width, tap_grid=backbone.grid, features=features)
            for name in config.loss
        }
    fit.check_blocking(guidance, backbone)
    fit.check_taps(built, backbone.depth)
    fit.check_names(set(specs))
    fit.raise_problems()
    objective = Objective(
        backbone=backbone,
        adapter=adapter,
        losses=built,
        guidance=guidance,
        process=process,
        source=source if read_by_loss or offered else None,
        specs=specs,
        stream_weights=config.train.stream_weights,
    )
    solver: api.Solver = fit.build("solver")
    return Run(config=config, data=data, objective=objective, solver=solver, evaluator=evaluator)


def is_reserved(loss: str, streams: Iterable[str]) -> bool:
    """Whether a loss of this name would hide a stream, the total, or what all modules have, such as "train"."""
    return loss in {"loss", *streams} or hasattr(torch.nn.ModuleDict, loss)


class _Fit:
    """Collects every misfit, so that the user sees all of them at once."""

    def __init__(self, config: RunConfig, catalog: Catalog, origin: Mapping[str, str]) -> None:
        self.config = config
        self.catalog = catalog
        self.origin = origin
        self.problems: list[str] = []

    def build(self, path: str, **facts: Any) -> Any:
        """The component chosen under "backbone", or "loss.repa"; it has all that its contract annotates."""
        section, _, loss = path.partition(".")
        choice: Choice = self.config.loss[loss] if loss else getattr(self.config, section)
        kind, name = CHOICES[section][0], self.name(path)
        try:
            component = choice.component(choice.config, **facts)
            for attribute in get_annotations(vars(api)[CONTRACTS[kind]]):
                getattr(component, attribute)
        except Exception as error:
            if isinstance(error, UserError):
                problem = error.of(name, section)
            else:
                plugin = self.catalog.get(kind, choice.name).plugin
                module = next(known.module for known in self.catalog.plugins if known.label == plugin)
                problem = f"{name} of {plugin} cannot be built: {one_line(error)}; `vco check {module}` tells more"
            raise UserError("\n".join([*self.problems, problem])) from error
        return component

    def name(self, path: str) -> str:
        source = self.origin.get(path.partition(".")[0])
        return self.config.named(path) + (f" (from {source})" if source else "")

    def others(self, kind: str, fits: Callable[[Any], bool]) -> str:
        """Names of the components of a kind whose classes fit."""
        names: list[str] = []
        for name in self.catalog.names(kind):
            with suppress(UserError):
                names += [name] if fits(self.catalog.get(kind, name).load()) else []
        return ", ".join(names) or "none installed"

    def check_streams(self, accepted: set[str], offered: set[str]) -> None:
        missing = {*self.config.backbone.component.streams} - {PIXELS, *offered}
        unused = offered - accepted
        if unused:
            names = " or ".join(sorted(unused))
            fitting = self.others("backbones", lambda b: unused <= {*b.streams, *b.optional_streams})
            self.problems.append(
                f"{self.name('adapter')} makes a {names} stream, which {self.name('backbone')} does not have; "
                f"choose a backbone that has ({fitting}) or --adapter none"
            )
        if missing:
            self.problems.append(
                f"{self.name('backbone')} denoises a {' and a '.join(sorted(missing))} stream, "
                f"which {self.name('adapter')} does not make"
            )

    def check_blocking(self, guidance: api.Guidance, backbone: api.Backbone) -> None:
        if guidance.needs_blocking and not backbone.supports_blocking:
            fitting = self.others("backbones", lambda b: b.supports_blocking and not isinstance(backbone, b))
            option = f"{backbone.blocking_option}, " if backbone.blocking_option else ""
            self.problems.append(
                f"{self.name('guidance')} blocks attention between streams; {self.name('backbone')} as set cannot; "
                f"choose {option}--guidance cfg or another backbone ({fitting})"
            )

    def check_batch(self, processes: int) -> None:
        train = self.config.train
        parts = processes * train.accumulation
        if train.batch_size % parts:
            self.problems.append(
                f"train.batch_size ({train.batch_size}) must be a multiple of processes x train.accumulation ({parts})"
            )
        elif train.samples_per_class and (groups := train.batch_size // train.samples_per_class) % parts:
            self.problems.append(
                f"the {groups} class groups of a batch cannot be shared evenly by {processes} processes x "
                f"{train.accumulation} accumulation steps; set --train.batch-size or --train.samples-per-class"
            )

    def check_groups(self, data: api.Data) -> None:
        train = self.config.train
        for name, choice in self.config.loss.items():
            if choice.component.grouped and not train.samples_per_class:
                self.problems.append(
                    f"loss {name} needs class-grouped batches: set --train.samples-per-class to a divisor of "
                    f"--train.batch-size ({train.batch_size})"
                )
        if train.samples_per_class and (groups := train.batch_size // train.samples_per_class) > data.num_classes:
            self.problems.append(
                f"a batch of {groups} class groups needs more classes than data {self.config.data.name} has "
                f"({data.num_classes}); raise --train.samples-per-class or lower --train.batch-size"
            )

    def check_taps(self, losses: Mapping[str, api.Loss], depth: int) -> None:
        for name, loss in losses.items():
            if beyond := [tap for tap in loss.taps if not 1 <= tap <= depth]:
                hint = f"; set --loss.{name}.block" if hasattr(loss.config, "block") else ""
                has = f"{self.name('backbone')} has blocks 1 to {depth}{hint}"
                self.problems.append(f"loss {name} reads block {beyond[0]}, but {has}")

    def check_names(self, streams: set[str]) -> None:
        for name in self.config.train.stream_weights.keys() - streams - {FEATURES}:
            known = ", ".join(sorted(streams))
            self.problems.append(f"train.stream_weights names {name!r}, which is no stream of this run ({known})")
        for name in self.config.loss:
            if is_reserved(name, streams):
                self.problems.append(f"a loss cannot be called {name!r}; its plugin has to register another name")

    def raise_problems(self) -> None:
        if self.problems:
            raise UserError("\n".join(self.problems))
