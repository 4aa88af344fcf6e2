"""The training loop on Accelerate: our own checkpoints, counted randomness, and an exit that saves.

Accelerate gives devices, DDP and autocast. The host waits for the device only where it logs, samples or saves.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from vco import checkpoint
from vco.checkpoint import Checkpoint
from vco.data import Order, read, to_float
from vco.ema import EMA
from vco.errors import TrainingStoppedError, UserError
from vco.fitting import fit_adapter
from vco.launch import together
from vco.log import Log, keep_lines
from vco.objective import Objective
from vco.randomness import noise, seed_of
from vco.run import Run
from vco.sample import sample_grid
from vco.stopping import StopFlag


class Training:
    """A run in progress: model, optimizer, averages and the number of steps done."""

    def __init__(self, run: Run, accelerator: Accelerator, folder: Path) -> None:
        self.run = run
        self.config = run.config.train
        self.seed = run.config.seed
        self.accelerator = accelerator
        self.folder = folder
        self._metrics = folder / "metrics.jsonl"
        self.device = accelerator.device
        self.images = run.data.train()
        self.order = Order(
            self.images.labels,
            seed=self.seed,
            batch_size=self.config.batch_size,
            samples_per_class=self.config.samples_per_class,
        )
        self.objective: Objective = run.objective.to(self.device)
        if self.objective.source is not None:
            self.objective.source.to(self.device)
        self.parameters = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        self.components = list(self.objective.components.values())
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in part.parameters() if p.requires_grad]} for part in self.components],
            lr=self.config.learning_rate,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=self.device.type == "cuda",
        )
        self.step = 0
        say: Callable[[str], None] = tqdm.write if accelerator.is_main_process else lambda sentence: None
        newest = checkpoint.load_newest(folder / "checkpoints", say)
        if newest is None:
            fit_adapter(run, self.images, self.device, main=accelerator.is_main_process)
        self.ema = EMA(self.objective, self.config.ema_decays)
        if newest is not None:
            self._restore(newest)
        self.start = self.step
        if accelerator.is_main_process:
            keep_lines(self._metrics, self.step)

    # ------------------------------------------------------------------------------------------------------------ steps

    def train(self) -> int:
        """Runs to the last step.

        Returns:
            0, or the number of the signal that asked to stop; a checkpoint is then written first.

        Raises:
            TrainingStoppedError: if a loss or weight is not finite; the last good checkpoint is intact.
        """
        model: Any = self.accelerator.prepare(self.objective)
        model.train()
        total = self.config.steps
        if self.start == 0:
            self.sample()
        reader = read(self.images, self._shares(), self.config, self.seed)
        saved = self.start
        log = Log(self.accelerator, self._metrics, total=total, start=self.start, batch_size=self.config.batch_size)
        with closing(log), closing(StopFlag()) as stop:
            while not (stopping := stop.agreed()) and self.step < total:
                log.add(self._one_step(model, reader))
                self.step += 1
                last = self.step == total
                if last or self.step % self.config.log_every == 0:
                    self._log(log)
                if last or self.step % self.config.sample_every == 0:
                    self.sample()
                    model.train()
                if last or self.step % self.config.checkpoint_every == 0:
                    self._save(log)
                    saved = self.step
            if saved != self.step:
                self._save(log)
        return stopping

    def _one_step(self, model: Any, reader: Iterator[Tensor]) -> dict[str, Tensor]:
        # Whatever draws from the ambient generator (dropout) is then counted too.
        torch.manual_seed(seed_of(self.seed, "ambient", self.step, self.accelerator.process_index))
        index, _ = self.order.batch(self.step)
        labels = self.order.labels[index]
        draw = self.objective.draw(labels, seed=self.seed, step=self.step)
        rate = self.config.learning_rate * min(1.0, (self.step + 1) / max(self.config.warmup_steps, 1))
        for group, part in zip(self.optimizer.param_groups, self.components, strict=True):
            group["lr"] = rate * part.learning_rate_scale(self.step)

        sums: dict[str, Tensor] = {}
        parts = self.config.accumulation
        for part in range(parts):
            rows = self._rows(part)
            slots = [self.step * self.config.batch_size + row for row in range(rows.start, rows.stop)]
            last = part == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                losses: dict[str, Tensor] = model(
                    to_float(next(reader).to(self.device, non_blocking=True)),
                    self._send(labels[rows]),
                    draw.map(lambda rows_of: self._send(rows_of[rows])),  # noqa: B023 (used at once)
                    noise(self.objective.specs, slots, self.seed, "noise", device=self.device),
                    self.step,
                )
                self.accelerator.backward(losses["loss"] / parts)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / parts
        if self.step == self.start:
            self._check_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        return sums

    def _check_gradients(self) -> None:
        """Data-parallel training waits for a gradient of every parameter, in every step."""
        for part, component in self.objective.components.items():
            for name, parameter in component.named_parameters():
                if parameter.requires_grad and parameter.grad is None:
                    who = self.run.config.named(part.replace("losses.", "loss."))
                    raise TrainingStoppedError(
                        f"training stopped: no gradient reaches the parameter {name} of {who}; its plugin has to give "
                        "it one in every step, or requires_grad_(False)"
                    )

    def _rows(self, part: int) -> slice:
        """This process's rows of the global batch in one accumulation step; class groups stay whole."""
        size = self.config.batch_size // (self.accelerator.num_processes * self.config.accumulation)
        start = (part * self.accelerator.num_processes + self.accelerator.process_index) * size
        return slice(start, start + size)

    def _shares(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.step, self.config.steps):
            index, epoch = self.order.batch(step)
            for part in range(self.config.accumulation):
                rows = self._rows(part)
                yield list(zip(index[rows].tolist(), epoch[rows].tolist(), strict=True))

    def _send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    # --------------------------------------------------------------------------------------------------------- the log

    def averaged(self) -> Objective:
        """A copy of the model with the weights of the first EMA (of the last step, if the run keeps none)."""
        return self.objective.with_weights(self.ema.averages[0] if self.ema.averages else self.objective.state_dict())

    def _log(self, log: Log) -> None:
        values = log.means()
        self._check(values)  # before anything is measured on what may be NaN
        values |= {name: float(value) for name, value in self.objective.metrics().items()}
        values |= {"learning_rate": self.optimizer.param_groups[0]["lr"], **log.speed()}
        self._check(values)
        log.write(self.step, values)

    def _check(self, values: Mapping[str, float]) -> None:
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            folder = self.folder / "checkpoints"
            saved = f"the checkpoints in {folder} are from before that" if folder.exists() else "nothing was saved yet"
            raise TrainingStoppedError(
                f"training stopped: {', '.join(bad)} became NaN or infinite by step {self.step}; {saved}. Lower "
                "--train.learning-rate (in another --output-dir, if there are checkpoints), or look at the loss named"
            )

    def sample(self) -> None:
        """Writes the sample grid of the present step."""
        if self.accelerator.is_main_process:
            path = self.folder / "samples" / f"step-{self.step:08d}.png"
            with self.accelerator.autocast():
                sample_grid(self.run, self.averaged(), path, self.device)

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def _save(self, log: Log) -> None:
        finite = torch.stack([p.isfinite().all() for p in self.parameters.values()]).all()
        self._check({**log.means(), "the weights": 0.0 if finite else math.nan})
        with together():
            if self.accelerator.is_main_process:
                checkpoint.save(self.folder / "checkpoints", self._checkpoint(), self.config.keep_checkpoints)

    def _checkpoint(self) -> Checkpoint:
        moments = self.optimizer.state_dict()["state"]
        named = dict(enumerate(self.parameters))
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": self.objective.state_dict(),
            "optimizer": {f"{named[i]}/{key}": v for i, state in moments.items() for key, v in state.items()},
        }
        tensors |= {f"ema-{i}": average for i, average in enumerate(self.ema.averages)}
        state = {"ema_decays": list(self.ema.decays), "seed": self.seed}
        return Checkpoint(step=self.step, tensors=tensors, state=state)

    def _restore(self, saved: Checkpoint) -> None:
        """All or nothing: a checkpoint of other components is refused before anything is changed."""
        expected = {n: v.shape for n, v in self.objective.state_dict().items()}
        found = {n: v.shape for n, v in saved.tensors["model"].items()}
        if expected != found:
            odd = sorted({n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)})
            raise UserError(
                f"the checkpoint of step {saved.step} in {self.folder} holds other components than this run: {odd[0]} "
                f"and {len(odd) - 1} more tensors differ; use the settings it was made with, or another --output-dir"
            )
        self.objective.load_state_dict(saved.tensors["model"])
        for i, average in enumerate(self.ema.averages):
            for name, value in average.items():
                value.copy_(saved.tensors[f"ema-{i}"][name])
        index = {name: i for i, name in enumerate(self.parameters)}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in saved.tensors["optimizer"].items():
            name, _, part = key.rpartition("/")
            moments.setdefault(index[name], {})[part] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = saved.step
