"""The Python door to a run: open its folder, look at its settings and log, and sample from its model."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from jaxtyping import UInt8
from torch import Tensor

from vco.api import FeatureSource, GuidanceSetting
from vco.config.settings import RunConfig
from vco.errors import UserError
from vco.folder import RunFolder, differences
from vco.objective import Objective
from vco.plugins.discovery import load_catalog
from vco.plugins.registry import Catalog
from vco.run import Run, assemble
from vco.sampling.sample import sample
from vco.storage import checkpoint


@attrs.define(slots=False)
class OpenedRun:
    """A run that was opened with `vco.open_run`. Weights are read when they are first needed."""

    folder: RunFolder
    catalog: Catalog
    """The plugins on offer."""
    device: torch.device | str = "cpu"
    at_step: int | None = None
    """Which checkpoint; None is the newest."""
    ema: int | None = 0
    """Which running average of the weights; None is the last weights themselves."""
    options: Sequence[str] = ()
    """Options of `vco-run` that act in sampling alone, set anew."""

    @cached_property
    def config(self) -> RunConfig:
        """The settings that the run was trained with, but for those that were set anew for sampling.

        Raises:
            UserError: if an option was set anew that training depends on, or that does not exist.
        """
        trained = self.folder.read_config(self.catalog)
        if not self.options:
            return trained
        config = self.folder.read_config(self.catalog, self.options)
        if changed := [key for key in differences(trained, config)]:
            raise UserError(
                f"{', '.join(changed)} cannot be changed after training; only options that act in sampling alone can, "
                "such as --sample.steps, --solver or --guidance.scale"
            )
        return config

    @cached_property
    def run(self) -> Run:
        """Its components: the networks with initial weights, the codec loaded; data set and encoders are not there."""
        run = assemble(self.config, self.catalog, facts=self.folder.read_facts())
        run.load()
        run.to(self.device)
        return run

    @cached_property
    def encoders(self) -> dict[str, FeatureSource]:
        """The run's frozen encoders by name, loaded; their weights must be at hand.

        Raises:
            UserError: if weights are missing.
        """
        run = assemble(self.config, self.catalog)
        run.load()
        run.to(self.device)
        return run.objective.sources

    @cached_property
    def step(self) -> int:
        """Optimizer steps done at the checkpoint that was opened."""
        return self._checkpoint.step

    @cached_property
    def ema_decay(self) -> float | None:
        """Decay rate of the average that `model` holds; None if it holds the last weights."""
        return self._checkpoint.state["ema_decays"][int(self._weights[4:])] if self._weights != "model" else None

    @cached_property
    def model(self) -> Objective:
        """The trained networks with the weights of the chosen average; `model.backbone` is the network that denoises.

        A run that keeps no average has its last weights here.
        """
        model, saved = self.run.objective, self._checkpoint
        try:
            model.load_state_dict(saved.tensors[self._weights])
        except RuntimeError as error:
            raise UserError(
                f"the checkpoint of step {saved.step} in {self.folder.path} holds other components than its "
                "config.yaml says; restore the file that it was trained with"
            ) from error
        return model.to(self.device).eval().requires_grad_(False)

    def metrics(self) -> list[dict[str, float]]:
        """What was logged, one mapping per logged step, each with the key "step"."""
        return self.folder.records()

    def sample(
        self, labels: Sequence[int] | Tensor, *, scale: float | None = None, steps: int | None = None, seed: int = 0
    ) -> UInt8[Tensor, "n c h w"]:
        """Images of the given classes, uint8; image i is a function of (seed, i, label i).

        Args:
            labels: class of each image, in [0, number of classes).
            scale: guidance scale; by default that of the run.
            steps: solver steps; by default those of the run.
            seed: seed of the noise.

        Raises:
            UserError: if a label is no class, or the guidance of the run has no scale.
        """
        classes = self.run.facts.num_classes
        wanted = torch.as_tensor(labels, dtype=torch.long).flatten()
        if len(wanted) == 0 or not bool(((wanted >= 0) & (wanted < classes)).all()):
            raise UserError(f"labels are the numbers of classes, from 0 to {classes - 1}, and at least one is needed")
        run, model = self.run, self.model
        if steps is not None:
            config = attrs.evolve(run.config, sample=attrs.evolve(run.config.sample, steps=steps))
            run = attrs.evolve(run, config=config)
        if scale is not None:
            model = self._guided(scale)
        size = run.config.sample.batch_size
        indices = range(len(wanted))
        batches = [
            sample(run, model, wanted[start : start + size], indices[start : start + size], self.device, seed)
            for start in indices[::size]
        ]
        return torch.cat(batches)

    @cached_property
    def _checkpoint(self) -> checkpoint.Checkpoint:
        if self.at_step is not None:
            return checkpoint.load_step(self.folder.checkpoints, self.at_step)
        newest = checkpoint.load_newest(self.folder.checkpoints, print)
        if newest is None:
            raise UserError(f"the run in {self.folder.path} has no checkpoint yet; let it train first")
        return newest

    @cached_property
    def _weights(self) -> str:
        """Name of the weights in the checkpoint."""
        averages = self._checkpoint.state["ema_decays"]
        if self.ema is None or (self.ema == 0 and not averages):
            return "model"
        if not 0 <= self.ema < len(averages):
            kept = ", ".join(f"{number} (decay {decay})" for number, decay in enumerate(averages)) or "none"
            raise UserError(f"the run in {self.folder.path} has no running average number {self.ema}; it has {kept}")
        return f"ema-{self.ema}"

    def _guided(self, scale: float) -> Objective:
        """The model with another guidance scale; everything else is shared."""
        guidance = self.model.guidance
        if "scale" not in attrs.fields_dict(type(guidance.config)):
            raise UserError(f"guidance {self.config.part('guidance').name} of this run has no scale")
        try:
            config = attrs.evolve(guidance.config, scale=scale)
        except (ValueError, TypeError) as error:
            raise UserError(f"scale {scale}: {error.args[0]}") from error
        setting = GuidanceSetting(streams=self.model.specs, num_classes=self.run.facts.num_classes)
        other = type(guidance)(config, setting)
        other.load_state_dict(guidance.state_dict())
        model = self.model.with_weights(self.model.state_dict())
        model.guidance = other.to(self.device).eval().requires_grad_(False)
        return model


def open_run(
    folder: str | Path,
    *,
    step: int | None = None,
    ema: int | None = 0,
    options: Sequence[str] = (),
    device: torch.device | str = "cpu",
    catalog: Catalog | None = None,
) -> OpenedRun:
    """Opens the folder of a run; its data set and its encoders need not be there.

    Args:
        folder: the run folder.
        step: which checkpoint; by default the newest.
        ema: which running average of the weights, from 0; None takes the last weights themselves.
        options: options of `vco-run` that act in sampling alone, set anew, as in ["--guidance.low", "0.2"].
        device: where its networks go.
        catalog: plugins on offer; by default those that are installed.

    Raises:
        UserError: if it is not the folder of a run.
    """
    opened = OpenedRun(RunFolder(Path(folder)), catalog or load_catalog(), device, step, ema, tuple(options))
    if not opened.folder.config.is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml")
    return opened


def load_weak(run: Run, catalog: Catalog, device: torch.device | str = "cpu") -> None:
    """Gives a run the model of the weaker run that its guidance names (autoguidance).

    Raises:
        UserError: if there is no such run, or its model does not fit this run's streams and classes.
    """
    folder = run.objective.guidance.weak_run
    if not folder:
        return
    where = f"{run.config.part('guidance').title}: the run in {folder}"
    opened: Any = open_run(folder, device=device, catalog=catalog)
    weak, specs = opened.run.objective, run.objective.specs
    if odd := [name for name, spec in weak.specs.items() if specs.get(name) != spec]:
        raise UserError(f"{where} has another stream {odd[0]!r} ({weak.specs[odd[0]]}) than this run")
    theirs, ours = opened.run.facts.num_classes, run.facts.num_classes
    if theirs != ours:
        raise UserError(f"{where} knows {theirs} classes, and this run {ours}")
    run.objective.beside["weak"] = opened.model
