"""The training of an encoder: steps, saved so that the same command goes on after any stop."""

import io
import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import torch
from torch import Tensor

from vco.api import FeatureSource, ImageSet, Recipe
from vco.config.settings import TrainConfig
from vco.data.order import Order
from vco.data.reader import chunks, read, to_float
from vco.errors import TrainingStoppedError, UserError
from vco.evaluation.classes import Known, known_by
from vco.randomness import seed_of
from vco.storage.files import lock, write_atomic
from vco.training.progress import Progress
from vco.training.stopping import StopFlag

STATE: Final = "state.pt"
JOB: Final = "job.json"
LOG: Final = "log.jsonl"
SECONDS_BETWEEN_SAVES: Final = 60.0
TIMEOUT: Final = 300


@attrs.frozen(kw_only=True)
class Plan:
    """How long to train, and on what."""

    images: ImageSet
    steps: int
    batch_size: int
    seed: int
    workers: int
    job: Mapping[str, Any]
    """All that the weights depend on, as plain data."""


def seed_everything(*key: int | str) -> None:
    """Seeds the generators that libraries draw from: torch's, NumPy's and Python's."""
    seed = seed_of(*key)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class EncoderTraining:
    """One training in a folder of its own, which is removed when the encoder is written."""

    def __init__(self, recipe: Recipe, plan: Plan, folder: Path, device: torch.device) -> None:
        """Begins, or goes on where the training in the folder was stopped.

        Args:
            recipe: what is trained.
            plan: how long, and on what.
            folder: what is saved.
            device: where to compute.

        Raises:
            UserError: if the folder holds another training, or somebody trains there.
        """
        self.recipe, self.plan, self.folder, self.device = recipe, plan, folder, device
        recipe.network.to(device)
        self.step = 0
        self._held = lock(folder, "training", "--output")
        try:
            self._take_up()
        except BaseException:
            self._held.close()
            raise

    def close(self) -> None:
        """Lets others have the folder."""
        self._held.close()

    def remove(self) -> None:
        """Removes what was saved: the encoder is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take_up(self) -> None:
        path = self.folder / JOB
        if not path.exists():
            write_atomic(path, json.dumps(self.plan.job, indent=1) + "\n")
        require_same(json.loads(path.read_text()), self.plan.job, self.folder)
        if not (self.folder / STATE).exists():
            return
        state = torch.load(self.folder / STATE, map_location=self.device, weights_only=True)
        self.recipe.network.load_state_dict(state["network"])
        self.recipe.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        lines = [json.loads(line) for line in self._log_lines()]
        kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= self.step]
        write_atomic(self.folder / LOG, "".join(kept))

    def _log_lines(self) -> list[str]:
        path = self.folder / LOG
        return path.read_text().splitlines() if path.exists() else []

    @property
    def log(self) -> str:
        """One line of JSON for each epoch."""
        return "".join(line + "\n" for line in self._log_lines())

    def run(self) -> int:
        """Trains to the end; returns 0, or the signal that has stopped it, after saving.

        Raises:
            TrainingStoppedError: if the loss is not a number.
        """
        plan, steps_per_epoch = self.plan, max(1, len(self.plan.images) // self.plan.batch_size)
        progress = Progress(total=plan.steps, start=self.step, shown=True)
        flag, saved, since, losses = StopFlag(TIMEOUT), time.monotonic(), time.monotonic(), list[Tensor]()
        try:
            for images, labels in self._batches():
                losses.append(self._advance(images, labels))
                progress.advance()
                if self.step % steps_per_epoch == 0 or self.step == plan.steps:
                    found = self._note(losses, time.monotonic() - since)
                    progress.show({"loss": f"{found['loss']:.3f}", "images/s": f"{found['images_per_second']:.0f}"})
                    losses, since = [], time.monotonic()
                if flag.signal:
                    self.save()
                    return flag.signal
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    self.save()
                    saved = time.monotonic()
        finally:
            progress.close()
            flag.close()
        self.save()
        return 0

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the steps that are left, images in [-1, 1], on the device."""
        plan = self.plan
        order = Order(plan.images.labels, seed=plan.seed, batch_size=plan.batch_size)

        def keys() -> Iterator[list[tuple[int, int]]]:
            for step in range(self.step, plan.steps):
                index, epoch = order.batch(step)
                yield list(zip(index.tolist(), epoch.tolist(), strict=True))

        for batch in read(plan.images, keys(), TrainConfig(workers=plan.workers), plan.seed):
            yield to_float(batch.images.to(self.device)), batch.labels.to(self.device)

    def _advance(self, images: Tensor, labels: Tensor) -> Tensor:
        recipe = self.recipe
        seed_everything(self.plan.seed, "step", self.step)
        recipe.network.train()
        recipe.before_step(self.step)
        recipe.optimizer.zero_grad()
        loss = recipe.loss(images, labels)
        loss.backward()
        recipe.optimizer.step()
        recipe.after_step(self.step)
        self.step += 1
        return loss.detach()

    def _note(self, losses: list[Tensor], seconds: float) -> dict[str, int | float]:
        """Adds a line to the log."""
        found: dict[str, int | float] = {
            "step": self.step,
            "loss": torch.stack(losses).mean().item(),
            "learning_rate": self.recipe.optimizer.param_groups[0]["lr"],
            "images_per_second": len(losses) * self.plan.batch_size / seconds,
        }
        if not math.isfinite(found["loss"]):
            raise TrainingStoppedError(
                f"the loss is {found['loss']} after step {self.step}; remove {self.folder} and begin again with a "
                "lower --recipe.learning-rate"
            )
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps(found) + "\n")
        return found

    def save(self) -> None:
        """Saves all that is needed to go on."""
        file = io.BytesIO()
        recipe = self.recipe
        state = {"network": recipe.network.state_dict(), "optimizer": recipe.optimizer.state_dict(), "step": self.step}
        torch.save(state, file)
        write_atomic(self.folder / STATE, file.getvalue())


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raises `UserError` if a folder holds another training than the command asks for."""
    keys = dict.fromkeys([*before, *now])
    if wrong := [
        f"{key}: {before.get(key)} there, {now.get(key)} now" for key in keys if before.get(key) != now.get(key)
    ]:
        raise UserError(
            f"{folder} holds another training ({'; '.join(wrong)}); give the same command as before, choose another "
            "--output, or remove that folder"
        )


def score(source: FeatureSource, plan: Plan, held_out: ImageSet, device: torch.device) -> Known:
    """What an encoder knows of held-out images."""
    config = TrainConfig(workers=plan.workers)

    def batches(images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in read(images, chunks(range(len(images)), plan.batch_size), config):
            yield batch.images, batch.labels

    return known_by(source.to(device), batches(plan.images), batches(held_out), device)
