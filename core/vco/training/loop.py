"""The training loop on Accelerate: our own checkpoints, counted randomness, and an exit that saves.

Accelerate gives devices, DDP and autocast; `sharding` stands in for DDP where weights are shared out. The host waits
for the device only where it logs, samples or saves.
"""

import copy
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import closing

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from vco.compiling import prepare_blocks
from vco.distributed import errors_shared, losses_of_processes_named
from vco.errors import TrainingStoppedError
from vco.evaluation.evaluate import Evaluation
from vco.evaluation.records import forget_after
from vco.evaluation.results import record_results
from vco.folder import RunFolder
from vco.objective import Objective
from vco.pieces import whole
from vco.reporting.live import LiveReport, ended
from vco.run import Run
from vco.storage.checkpoint import Checkpoint
from vco.storage.metrics_file import keep_lines
from vco.training.agreeing import agreed_checkpoint
from vco.training.batches import Batches
from vco.training.cost import note_cost
from vco.training.data_parallel import data_parallel
from vco.training.ema import EMA
from vco.training.finite import Finite, require_finite
from vco.training.fitting import fit_adapter
from vco.training.gradients import all_finite
from vco.training.log import Log
from vco.training.optimizer import build_optimizer
from vco.training.pictures import write_grid, write_real_grid
from vco.training.recomputing import recompute_blocks
from vco.training.restoring import require_fit, restore, tensors_of
from vco.training.saving import Saver
from vco.training.sharding import Shards, share_out
from vco.training.starting import start_from
from vco.training.stepping import Stepper
from vco.training.stopping import UNREADABLE, StopFlag
from vco.training.stored_latents import training_images
from vco.training.trackers import log_scores, start_trackers
from vco.training.upcoming import Upcoming


class Training:
    """A run in progress: model, optimizer, averages and the number of steps done. `begin` comes before `train`."""

    def __init__(self, run: Run, accelerator: Accelerator, folder: RunFolder) -> None:
        self.run = run
        self.config = run.config.train
        self.seed = run.config.seed
        self.accelerator = accelerator
        self.folder = folder
        self.device = accelerator.device
        self.images = run.data.train()
        run.to(self.device)
        self.objective: Objective = run.objective
        self.batches = Batches(run, training_images(run, self.images), accelerator, folder.bad_images)
        self.evaluation = Evaluation(run, accelerator)
        self.say: Callable[[str], None] = tqdm.write if accelerator.is_main_process else lambda sentence: None
        self.step = 0
        self.ahead = 0
        """Batches that were passed over because the run had gone back (--train.on-nan rollback)."""

    @property
    def place(self) -> int:
        """Where the run is in the sequence of batches."""
        return self.step + self.ahead

    def begin(self) -> None:
        """Goes on from the newest checkpoint in the folder; without one takes the weights of --from, fits the adapter.

        Raises:
            UserError: if every checkpoint is damaged, or the newest whole one (or --from) has other components.
        """
        newest = self._newest()
        if newest is None and not start_from(self.run, self.say):
            fit_adapter(self.run, self.images, self.device, main=self.accelerator.is_main_process)
        prepare_blocks(self.objective, self.run.config, self.device, self.say)  # before copies are made of it
        self._twin: Objective | None = None
        if self.config.sharding == "fsdp" and self.accelerator.num_processes > 1:
            self.note_cost()  # of networks that are still whole
            self._twin = share_out(self.objective, self.device)
        self.parameters = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        self.optimizer = build_optimizer(self.run)
        first = None if self._twin is None else self._twin.state_dict()
        self.ema = EMA(self.objective, self.config.ema_decays, first)
        self.finite = Finite(self.config.on_nan, self.objective, self.parameters)
        keep, in_pieces = self.config.keep_checkpoints, self._twin is not None
        self.saver = Saver(self.folder.checkpoints, keep, self.accelerator, self.say, in_pieces=in_pieces)
        if newest is not None:
            self._restore(newest)
        if any(loss.needs_teacher for loss in self.objective.losses.values()):
            self.objective.beside["teacher"] = self.averaged().quiet
        self.start = self.step
        self._forget_later()

    # ------------------------------------------------------------------------------------------------------------ steps

    def train(self, report: LiveReport | None = None) -> int:
        """Runs to the last step.

        Args:
            report: the page that is written while the run goes on; None where nobody wants one.

        Returns:
            0, or the number of the signal that asked to stop; a checkpoint is then written first.

        Raises:
            TrainingStoppedError: if a loss or weight is not finite; the last good checkpoint is intact.
        """
        stepper = self._ready()
        total = self.config.steps
        with errors_shared():
            if self.accelerator.is_main_process:
                write_real_grid(self.run, self.images, self.folder.real)
            start_trackers(self.accelerator, self.run.config, self.folder, self.step)
        if self.start == 0:
            self.sample()
        stepper.model.train()
        batches = self._upcoming()
        saved = self.start
        log = Log(
            self.accelerator, self.folder.metrics, total=total, start=self.start, batch_size=self.config.batch_size
        )
        self.objective.beside["watch"] = log.watch
        self.objective.beside["split_groups"] = self.batches.split_groups
        with (
            ended(report),
            closing(log),
            closing(StopFlag(self.config.timeout)) as stop,
            closing(self.saver),
            losses_of_processes_named(),
        ):
            self._stopping(stop, batches, log, steps=1)
            while not (stopping := self._stopping(stop, batches, log, steps=2)) and self.step < total:
                last = self.step + 1 == total
                logs = log.watch.looks = last or (self.step + 1) % self.config.log_every == 0
                losses = self._one_step(stepper, batches, log)
                if losses is None and self.config.on_nan == "rollback":
                    self._go_back(log)
                    batches = self._upcoming()
                    continue
                log.add(losses or {})
                self.step += 1
                if logs:
                    self._log(log)
                if last or self.step % self.config.sample_every == 0:
                    with log.clock.aside():
                        self.sample()
                        stepper.model.train()
                if last or self.step % self.config.checkpoint_every == 0:
                    with log.clock.aside():
                        self._save(log)
                    saved = self.step
                if not last and self.run.config.eval.every and self.step % self.run.config.eval.every == 0:
                    with log.clock.aside():
                        self._evaluate(log)
                        stepper.model.train()
                if report and logs and not last:
                    with log.clock.aside():
                        report.update(f"training, after step {self.step} of {total}")
            if saved != self.step:
                self._save(log)
            with errors_shared():
                self.saver.wait()
            if stopping == UNREADABLE:
                batches.raise_error()
        if stopping and report:
            report.write(f"stopped by a signal after step {self.step} of {total}")
        return stopping

    def only_steps(self, count: int, log: Log) -> Generator[dict[str, Tensor]]:
        """Does some steps and nothing of what `train` does between them: what `vco profile` measures.

        Args:
            count: steps, at most as many as the run has.
            log: is told of them.

        Yields:
            The losses of each step; none of one that was left out.
        """
        stepper, batches = self._ready(), self._upcoming()
        stepper.model.train()
        for _ in range(count):
            with log.clock.waiting():
                unreadable = batches.look(steps=2)
            if unreadable:
                batches.raise_error()
            losses = self._one_step(stepper, batches, log) or {}
            log.add(losses)
            self.step += 1
            yield losses

    def _ready(self) -> Stepper:
        """What does the steps; in all processes, and with blocks recomputed if that is asked for."""
        if self.config.checkpoint_blocks:
            recompute_blocks(self.objective.backbone)
        shared_out = self._twin is not None
        return Stepper(
            run=self.run,
            model=(Shards if shared_out else data_parallel)(self.accelerator, self.objective),
            parameters=self.parameters,
            optimizer=self.optimizer,
            ema=self.ema,
            finite=self.finite,
            batches=self.batches,
            accelerator=self.accelerator,
        )

    def _one_step(self, stepper: Stepper, batches: Upcoming, log: Log) -> dict[str, Tensor] | None:
        """Moves the weights, unless the gradient is not finite and such steps are left out: then it returns None."""
        return stepper.step(self.step, self.place, batches, log, first=self.step == self.start)

    def _upcoming(self) -> Upcoming:
        """The batches from here to the last step."""
        return Upcoming(self.batches.read(self.place, self.config.steps + self.ahead), self.config.accumulation)

    def _stopping(self, stop: StopFlag, batches: Upcoming, log: Log, steps: int) -> int:
        """Reads the batches of so many steps; returns why to stop now, the same in all processes."""
        with log.clock.waiting():
            unreadable = batches.look(steps)
        return stop.agreed(unreadable, self.saver.failed)

    def _go_back(self, log: Log) -> None:
        """Goes back to the newest checkpoint, and on from there with the batches behind the one that failed."""
        failed = self.place
        with errors_shared():
            self.saver.wait()
        newest = self._newest()
        if newest is None:
            raise TrainingStoppedError(
                f"training stopped: the gradient of step {self.step + 1} has NaN or infinity, and there is no "
                "checkpoint to go back to; lower --train.learning-rate, or set --train.on-nan skip"
            )
        self._restore(newest)
        self.ahead = failed + 1 - self.step
        log.go_back(self.step)
        self._forget_later()
        self.say(f"a gradient with NaN or infinity: back to step {self.step}, and on with other batches")

    def _forget_later(self) -> None:
        """Drops what was logged and scored after this step, which will be done again."""
        if self.accelerator.is_main_process:
            keep_lines(self.folder.metrics, self.step)
            forget_after(self.folder.evals, self.step)

    def _newest(self) -> Checkpoint | None:
        """The newest checkpoint, the same in all processes."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        return agreed_checkpoint(self.folder.checkpoints, rank, count, self.say)

    # --------------------------------------------------------------------------------------------------------- the log

    def note_cost(self) -> None:
        """Writes cost.json, if it is not there: what the run costs, in parameters and arithmetic."""
        indices: list[int] = self.batches.order.batch(0)[0][self.batches.rows(0)].tolist()
        note_cost(self.folder.cost, self.run, self.images, indices, self.accelerator)

    def averaged(self) -> Objective:
        """The model with the weights of the first EMA (of the last step, if the run keeps none); a view of them."""
        if self._twin is not None:  # an object of its own for whoever remembers something of these weights
            return copy.copy(self._twin if self.ema.averages else self.objective)
        return self.objective.with_weights(self.ema.averages[0] if self.ema.averages else self.objective.state_dict())

    def _log(self, log: Log) -> None:
        values = log.means()
        self._check(values)  # before anything is measured on what may be NaN
        values |= {name: float(whole(value)) for name, value in self.objective.metrics().items()}
        values |= {"learning_rate": self.optimizer.param_groups[0]["lr"], **log.measures(), **self.finite.counts()}
        self._check(values)
        log.write(self.step, values)

    def _check(self, values: Mapping[str, float]) -> None:
        require_finite(values, self.step, self.folder.checkpoints)

    def sample(self) -> None:
        """Writes the sample grid of the present step."""
        write_grid(self.run, self.averaged(), self.folder, self.step, self.accelerator)

    def _evaluate(self, log: Log) -> None:
        """Scores the averaged model in the midst of training, and adds a line to evals.jsonl."""
        results = self.evaluation.score(self.averaged())
        if results and self.accelerator.is_main_process:
            record_results(results, self.run, self.step, self.folder)
            first = results[0]
            log.scored(first.score.name, first.score.value)
            log_scores(self.accelerator, self.step, [result.plain() for result in results])
            tqdm.write(
                f"step {self.step}: {first.score.name} {first.score.value:.3f} (real images: {first.real_value:.3f})"
            )

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def _save(self, log: Log) -> None:
        finite = all_finite(list(self.parameters.values()))
        self._check({**log.means(), "the weights": 0.0 if finite else math.nan})
        with errors_shared():
            plain = {"ema_decays": list(self.ema.decays), "seed": self.seed, "ahead": self.ahead}
            tensors = tensors_of(self.objective, self.ema.averages, self.optimizer, self.parameters)
            self.saver.save(Checkpoint(step=self.step, tensors=tensors, state=plain))

    def _restore(self, saved: Checkpoint) -> None:
        """All or nothing: a checkpoint of other components is refused before anything is changed."""
        require_fit(
            saved, self.objective.state_dict(), self.ema.decays, self.parameters, self.seed, str(self.folder.path)
        )
        restore(saved, self.objective, self.ema.averages, self.optimizer, self.parameters)
        self.step, self.ahead = saved.step, int(saved.state.get("ahead", 0))
