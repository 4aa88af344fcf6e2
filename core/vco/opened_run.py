"""The Python door to a run: open its folder, look at its settings and log, and sample from its model."""

from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from jaxtyping import UInt8
from torch import Tensor

from vco.api import FeatureSource
from vco.compiling import prepare_blocks, tally
from vco.config.settings import RunConfig
from vco.content import of_weights
from vco.distributed import autocast_of, precision_of, usable_device
from vco.errors import UserError
from vco.folder import RunFolder
from vco.objective import Objective
from vco.plugins.discovery import load_catalog
from vco.plugins.registry import Catalog
from vco.run import Run, assemble
from vco.sampling.averages import young_average
from vco.sampling.progress import Progress
from vco.sampling.sample import sample, whole_batch
from vco.sampling.settings import acting, refuse_others, with_scale, with_steps
from vco.sampling.trajectory import MOMENTS, Trajectory, trajectory
from vco.storage import checkpoint
from vco.storage.hub import local_path


@attrs.define(slots=False)
class OpenedRun:
    """A run that was opened with `vco.open_run`. Weights are read when they are first needed."""

    folder: RunFolder
    catalog: Catalog = attrs.field(repr=False)
    """The plugins on offer."""
    device: torch.device = torch.device("cpu")
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
        config = self.folder.read_config(self.catalog, self.options)
        refuse_others(self.options, config)
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

    @property
    def young_average(self) -> str:
        """A sentence if `model` holds an average that is still much like the weights that training began with.

        Empty where it is not, and of weights that others have published, of which nobody knows the steps.
        """
        return "" if "published" in self._checkpoint.state else young_average(self.ema_decay, self.step)

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
        prepare_blocks(model, self.config, self.device, print)
        return model.to(self.device).eval().requires_grad_(False)

    def metrics(self) -> list[dict[str, float]]:
        """What was logged, one mapping per logged step, each with the key "step"."""
        return self.folder.records()

    def sample(
        self, labels: Sequence[int] | Tensor, *, scale: float | None = None, steps: int | None = None, seed: int = 0
    ) -> UInt8[Tensor, "n c h w"]:
        """Images of the given classes, uint8 on the CPU; image i is a function of (seed, i, label i).

        They are those of `vco sample` and, with the run's own seed, those that `vco-run` scores. What takes long shows
        its progress.

        Args:
            labels: class of each image, in [0, number of classes).
            scale: guidance scale; by default that of the run.
            steps: solver steps; by default those of the run.
            seed: seed of the noise.

        Raises:
            UserError: if a label is no class, or the guidance of the run has no scale.
        """
        wanted, run, model = self._classes(labels), with_steps(self.run, steps), self.guided(scale)
        size, rows = run.config.sample.batch_size, whole_batch(run, len(wanted))
        batches: list[Tensor] = []
        with (
            closing(Progress(len(wanted), run.config.sample.steps, delay=2.0)) as progress,
            autocast_of(run.config, self.device),
        ):
            for indices in (range(start, min(start + size, len(wanted))) for start in range(0, len(wanted), size)):
                progress.begin(len(indices))
                here = wanted[indices.start : indices.stop]
                batches.append(sample(run, model, here, indices, self.device, seed, progress.step, rows))
        tally.tell(print)
        return torch.cat(batches)

    def trajectory(
        self,
        labels: Sequence[int] | Tensor,
        *,
        scale: float | None = None,
        steps: int | None = None,
        seed: int = 0,
        moments: int = MOMENTS,
    ) -> Trajectory:
        """How the images of `sample` come out of noise: all streams at some moments on the way.

        `.picture()` is a contact sheet, which a notebook shows, and `.save("way.gif")` writes an animation.

        Args:
            labels: class of each image, in [0, number of classes).
            scale: guidance scale; by default that of the run.
            steps: solver steps; by default those of the run.
            seed: seed of the noise.
            moments: how many moments, at least 2.

        Raises:
            UserError: as in `sample`.
        """
        wanted, run, model = self._classes(labels), with_steps(self.run, steps), self.guided(scale)
        with autocast_of(run.config, self.device):
            return trajectory(run, model, wanted, device=self.device, seed=seed, moments=moments)

    def guided(self, scale: float | None = None) -> Objective:
        """The model as it is sampled from: with the weak model beside it, if guidance names one (autoguidance).

        Args:
            scale: guidance scale; by default that of the run.

        Raises:
            UserError: if guidance has no such scale, or the run of the weak model cannot be used.
        """
        model = self.model
        if self._weak is not None:
            model.beside["weak"] = self._weak.model
        return with_scale(self.run, model, scale, self.device)

    def describe(self) -> dict[str, Any]:
        """What its images depend on beside seed, number and label, as plain data; `vco sample` notes it with them."""
        averaged, device = self.ema_decay is not None, self.device
        weak = {} if self._weak is None else {"weak_weights": self._weak.weights_sha256}
        return {
            "run": str(self.folder.path),
            "step": self.step,
            "ema": self.ema if averaged else None,
            "ema_decay": self.ema_decay,
            "weights": self.weights_sha256,
            **weak,
            "image_shape": list(self.run.facts.image_shape),
            **acting(self.config),
            "precision": precision_of(self.config, self.device),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }

    @cached_property
    def average_differs(self) -> bool:
        """Whether the average that `model` holds is another model than the last weights; False if it holds these."""
        last, chosen = (self._checkpoint.tensors[name] for name in ("model", self._weights))
        return any(not torch.equal(tensor, chosen[name]) for name, tensor in last.items())

    def again(self, *, ema: int | None, options: Sequence[str]) -> "OpenedRun":
        """The same checkpoint, which is not read again, with another average and other options for sampling."""
        other = attrs.evolve(self, ema=ema, options=tuple(options))
        other.__dict__["_checkpoint"] = self._checkpoint
        return other

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights that `model` has, as `vco eval` notes it too."""
        return of_weights(self.model)

    def _classes(self, labels: Sequence[int] | Tensor) -> Tensor:
        """The labels, if they are classes."""
        classes = self.run.facts.num_classes
        try:
            given = torch.as_tensor(labels).flatten()
        except (TypeError, ValueError, RuntimeError):  # whatever a notebook may hand over
            given = torch.empty(0)
        whole = not (given.is_floating_point() or given.is_complex())
        if len(given) == 0 or not whole or not bool(((given >= 0) & (given < classes)).all()):
            raise UserError(f"labels are the numbers of classes, from 0 to {classes - 1}, and at least one is needed")
        return given.long()

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
        kept = ", ".join(f"{number} (decay {decay})" for number, decay in enumerate(averages)) or "none"
        if self.ema is None or (self.ema == 0 and not averages):
            if "model" not in self._checkpoint.tensors:
                raise UserError(f"{self.folder.path} holds no last weights, as it was exported; it has average {kept}")
            return "model"
        if not 0 <= self.ema < len(averages):
            raise UserError(f"the run in {self.folder.path} has no running average number {self.ema}; it has {kept}")
        return f"ema-{self.ema}"

    @cached_property
    def _weak(self) -> "OpenedRun | None":
        return open_weak(self.run, self.catalog, self.device)


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
        folder: the run folder, or hf://OWNER/NAME of one on the Hugging Face Hub.
        step: which checkpoint; by default the newest.
        ema: which running average of the weights, from 0; None takes the last weights themselves.
        options: options of `vco-run` that act in sampling alone, set anew, as in ["--guidance.low", "0.2"].
        device: where its networks go, as in "cuda".
        catalog: plugins on offer; by default those that are installed.

    Raises:
        UserError: if it is not the folder of a run, or this machine has no such device.
    """
    found = RunFolder(local_path(folder))
    if not found.config.is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml")
    return OpenedRun(found, catalog or load_catalog(), usable_device(device), step, ema, tuple(options))


def load_weak(run: Run, catalog: Catalog, device: torch.device | str = "cpu") -> None:
    """Gives a run the model of the weaker run that its guidance names (autoguidance); raises as `open_weak` does."""
    weak = open_weak(run, catalog, device)
    if weak is not None:
        run.objective.beside["weak"] = weak.model


def open_weak(run: Run, catalog: Catalog, device: torch.device | str = "cpu") -> OpenedRun | None:
    """Opens the weaker run that the guidance of a run names; None if it names none.

    Raises:
        UserError: if there is no such run, or its model does not fit this run's streams and classes.
    """
    folder = run.objective.guidance.weak_run
    if folder is None:
        return None
    title = run.config.part("guidance").title
    if not (Path(folder) / "config.yaml").is_file():
        there = f"there is none in {folder}" if folder else "none is given"
        raise UserError(f"{title} needs the folder of a finished run of a weaker model (--guidance.run); {there}")
    where = f"{title}: the run in {folder}"
    opened = open_run(folder, options=("--train.compile", run.config.train.compile), device=device, catalog=catalog)
    weak, specs = opened.run.objective, run.objective.specs
    if odd := [name for name, spec in weak.specs.items() if specs.get(name) != spec]:
        raise UserError(f"{where} has another stream {odd[0]!r} ({weak.specs[odd[0]]}) than this run")
    theirs, ours = opened.run.facts.num_classes, run.facts.num_classes
    if theirs != ours:
        raise UserError(f"{where} knows {theirs} classes, and this run {ours}")
    return opened
