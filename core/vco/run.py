"""Assembly: puts the chosen components together, after checking that they fit, before anything heavy starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import torch

from vco import api
from vco.api import IMAGE, FeatureSource
from vco.compatibility import Compatibility
from vco.config.settings import Part, RunConfig
from vco.errors import UserError, one_line
from vco.facts import RunFacts
from vco.objective import Objective
from vco.outline import outline
from vco.plugins.registry import Catalog


@attrs.frozen(kw_only=True)
class MetricChoice:
    """A metric of the run, and the encoder that it looks through."""

    part: Part
    setting: api.MetricSetting
    encoder: Part | None
    """The encoder in the configuration; None if the metric needs none."""
    source: FeatureSource | None
    """The encoder itself."""

    def make(self) -> api.Metric:
        """A metric object for one comparison."""
        return self.part.component(self.part.config, self.setting)


@attrs.frozen(kw_only=True)
class Run:
    """The components of a run. Weights are initialised (or on the meta device); nothing has been read from disk."""

    config: RunConfig
    facts: RunFacts
    """What its components were built for."""
    at_hand: api.Data | None
    """The data set; None where a run is only sampled from."""
    objective: Objective
    solver: api.Solver
    optimizer: api.Optimizer
    metrics: Sequence[MetricChoice]
    frozen: Mapping[str, api.Codec | api.FeatureSource]
    """Codec and encoders that the run needs, by their place in the configuration, as in "features.dinov2"."""

    @property
    def data(self) -> api.Data:
        """The data set, in a run that trains or is scored."""
        assert self.at_hand is not None, "this run was assembled from its facts, without a data set"
        return self.at_hand

    @property
    def frozen_in_training(self) -> Mapping[str, api.Codec | api.FeatureSource]:
        """Those that training needs, without the encoders of metrics."""
        return {path: part for path, part in self.frozen.items() if not path.startswith("metric.")}

    def load(self) -> None:
        """Loads the codec and the frozen encoders; raises `UserError` if one cannot be."""
        load_frozen(self.config, self.frozen)

    def missing(self) -> list[str]:
        """One sentence for every file that the run needs and cannot find."""
        problems: list[str] = []
        for path, part in {"data": self.data, **self.frozen}.items():
            try:
                part.check()
            except UserError as error:
                problems.append(error.of(self.config.part(path).title, self.config.option_of(path)))
        weak = self.objective.guidance.weak_run
        if weak is not None and not (Path(weak) / "config.yaml").is_file():
            needs = f"{self.config.part('guidance').title} needs the folder of a finished run of a weaker model"
            problems.append(f"{needs} (--guidance.run); {f'there is none in {weak}' if weak else 'none is given'}")
        return problems

    def to(self, device: torch.device | str) -> None:
        """Moves everything to a device."""
        self.objective.to(device)
        for part in self.frozen.values():
            part.to(device)


def assemble(
    config: RunConfig,
    catalog: Catalog,
    origin: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
    processes: int = 1,
    facts: RunFacts | None = None,
    data: api.Data | None = None,
) -> Run:
    """Builds every component of a run.

    Args:
        config: what was chosen.
        catalog: where other components are looked up, to name those that would fit.
        origin: section -> where its choice came from ("--backbone", "preset digits"), for messages.
        device: where the weights are created; "meta" costs nothing.
        processes: training processes that share a batch.
        facts: what is known of data set and encoders, where the run is to be assembled without them: to sample from it.
        data: the data set, if it was built before from the same settings; it may have listed a large folder.

    Raises:
        UserError: with one sentence for every misfit between the components.
    """
    fit = Compatibility(config, catalog, origin or {})
    sources: dict[str, FeatureSource] = {}
    metrics, scoring = list[MetricChoice](), dict[str, FeatureSource]()
    if facts is None:
        fit.check_batch(processes)
        data = data or fit.build("data", api.DataSetting())
        assert data is not None
        metrics, scoring = choose_metrics(config, fit, data.image_shape, data.num_classes)
        fit.check_groups(data)
    with outline() if torch.device(device).type == "meta" else torch.device(device):
        torch.manual_seed(config.seed)
        if data is not None:
            sources = _sources(config, fit, data.image_shape)
            features = {name: source.spec for name, source in sources.items()}
            facts = RunFacts(image_shape=data.image_shape, num_classes=data.num_classes, features=features)
        assert facts is not None
        objective, solver = _networks(config, fit, facts, sources)
    setting = api.OptimizerSetting(learning_rate=config.train.learning_rate)
    optimizer: api.Optimizer = fit.build("optimizer", setting)
    frozen = {"codec": objective.codec}
    frozen |= {f"features.{name}": source for name, source in objective.sources.items()}
    return Run(
        config=config,
        facts=facts,
        at_hand=data,
        objective=objective,
        solver=solver,
        optimizer=optimizer,
        metrics=metrics,
        frozen=frozen | scoring,
    )


def known_facts(config: RunConfig, catalog: Catalog, origin: Mapping[str, str] | None = None) -> RunFacts:
    """What the settings alone tell of data set and encoders, neither of which need be at hand.

    Raises:
        UserError: if one of them cannot be built.
    """
    fit = Compatibility(config, catalog, origin or {})
    data: api.Data = fit.build("data", api.DataSetting())
    with outline():
        sources = _sources(config, fit, data.image_shape)
    features = {name: source.spec for name, source in sources.items()}
    return RunFacts(image_shape=data.image_shape, num_classes=data.num_classes, features=features)


def _sources(config: RunConfig, fit: Compatibility, image_shape: tuple[int, int, int]) -> dict[str, FeatureSource]:
    """The encoders by name; none if neither backbone, adapter nor any loss wants one."""
    backbone, adapter = config.part("backbone").component, config.part("adapter").component
    read_by_loss = any(part.component.needs_features for part in config.all_of("loss").values())
    takes_streams = {*backbone.streams, *backbone.optional_streams} != {IMAGE}
    if not (read_by_loss or takes_streams or adapter.needs_stream or backbone.needs_features):
        return {}
    setting = api.FeatureSetting(image_shape=image_shape)
    return {name: fit.build(f"features.{name}", setting) for name in config.all_of("features")}


def _networks(
    config: RunConfig, fit: Compatibility, facts: RunFacts, sources: Mapping[str, FeatureSource]
) -> tuple[Objective, api.Solver]:
    """What is trained, and the solver, after checking that they fit together."""
    codec: api.Codec = fit.build("codec", api.CodecSetting(image_shape=facts.image_shape))
    backbone_class = config.part("backbone").component
    accepted = {*backbone_class.streams, *backbone_class.optional_streams}
    adapter: api.Adapter = fit.build("adapter", api.AdapterSetting(features=facts.features, image=codec.spec))
    wanted = accepted if backbone_class.takes_idle_streams else {*backbone_class.streams}
    offered = adapter.specs() if adapter.needs_stream or adapter.specs().keys() <= wanted else {}
    fit.check_streams(accepted, set(offered))
    specs = {IMAGE: codec.spec, **offered}
    guidance: api.Guidance = fit.build("guidance", api.GuidanceSetting(streams=specs, num_classes=facts.num_classes))
    fit.raise_problems()
    process_setting = api.ProcessSetting(streams=specs)
    process: api.Process = fit.build("process", process_setting)
    chosen = config.all_of("loss")
    backbone_setting = api.BackboneSetting(
        streams=specs,
        num_classes=facts.num_classes,
        features=facts.features,
        until=any(part.component.needs_until for part in (*chosen.values(), config.part("solver"))),
    )
    backbone: api.Backbone = fit.build("backbone", backbone_setting)
    loss_setting = api.LossSetting(
        width=backbone.width,
        grid=backbone.grid,
        depth=backbone.depth,
        features=facts.features,
        streams=specs,
        num_classes=facts.num_classes,
    )
    losses: dict[str, api.Loss] = {name: fit.build(f"loss.{name}", loss_setting) for name in chosen}
    solver: api.Solver = fit.build("solver", api.SolverSetting(streams=specs))
    fit.check_blocking(guidance, backbone)
    fit.check_blocks(backbone)
    fit.check_until(solver, losses, backbone)
    fit.check_losses(losses, backbone, set(specs))
    fit.check_path(process_setting, losses)
    fit.check_stream_weights(set(specs))
    fit.raise_problems()
    read = offered or backbone_class.needs_features or any(loss.needs_features for loss in losses.values())
    objective = Objective(
        backbone=backbone,
        adapter=adapter,
        losses=losses,
        guidance=guidance,
        process=process,
        codec=codec,
        sources=sources if read else {},
        specs=specs,
        stream_weights=config.train.stream_weights,
        encoder_precision=config.train.encoder_precision,
    )
    return objective, solver


def load_frozen(config: RunConfig, frozen: Mapping[str, api.Codec | api.FeatureSource]) -> None:
    """Loads codecs and encoders, given by their place in the configuration.

    Raises:
        UserError: if one cannot be loaded.
    """
    for path, part in frozen.items():
        title = config.part(path).title
        try:
            part.load()
        except UserError as error:
            raise UserError(error.of(title, config.option_of(path))) from error
        except Exception as error:  # files of any kind, read by code of anybody
            raise UserError(f"{title} cannot be loaded: {one_line(error)}") from error
        part.requires_grad_(False).eval()


def choose_metrics(
    config: RunConfig, fit: Compatibility, image_shape: tuple[int, int, int], num_classes: int
) -> tuple[list[MetricChoice], dict[str, FeatureSource]]:
    """The metrics of a run, and their encoders by place; metrics that ask for equal encoders share one.

    Args:
        config: what was chosen.
        fit: builds them, and collects misfits.
        image_shape: (c, h, w) of the images that they look at.
        num_classes: number of classes; 0 where nobody knows it.
    """
    chosen: list[MetricChoice] = []
    sources: dict[str, FeatureSource] = {}
    built: list[tuple[Part, FeatureSource]] = []

    def choice(part: Part, encoder: Part | None, source: FeatureSource | None) -> MetricChoice:
        setting = api.MetricSetting(
            image_shape=image_shape,
            num_classes=num_classes,
            encoder=encoder.name if encoder else "",
            features=source.spec if source else None,
        )
        return MetricChoice(part=part, setting=setting, encoder=encoder, source=source)

    for name, part in config.all_of("metric").items():
        encoders = config.encoders_of(name)
        if part.component.needs_features != bool(encoders):
            needs, hint = ("needs an", f"{name}=ENCODER") if part.component.needs_features else ("takes no", name)
            fit.problems.append(f"metric {name} {needs} encoder: write --metric {hint}")
            continue
        for encoder in encoders.values():
            known = [source for other, source in built if (other.name, other.config) == (encoder.name, encoder.config)]
            source = known[0] if known else fit.build(encoder.path, api.FeatureSetting(image_shape=image_shape))
            if not known:
                built.append((encoder, source))
                sources[encoder.path] = source
            chosen.append(choice(part, encoder, source))
        if not encoders:
            chosen.append(choice(part, None, None))
    for item in chosen:  # a misfit shows at the start, and not after training
        fit.build(item.part.path, item.setting)
    return chosen, sources
