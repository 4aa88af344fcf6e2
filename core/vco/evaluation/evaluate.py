"""Scores of a model: generated images against held-out ones, by every metric of the run.

A score is named after the network that looks at the images, "FD (digits-cnn)", and called FID only where that network
and the protocol are FID's.
"""

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from vco.api import Features, ImageSet, Metric, Score
from vco.config.plain import to_plain
from vco.data.reader import chunks, read, to_float
from vco.errors import UserError
from vco.folder import RunFolder
from vco.objective import Objective
from vco.randomness import generator
from vco.run import MetricChoice, Run
from vco.sampling.sample import sample_many
from vco.storage.files import write_atomic


@attrs.frozen(kw_only=True)
class Result:
    """What one metric says about a model."""

    score: Score
    """Generated against held-out images."""
    real_value: float
    """As many training images against the same held-out images: what a perfect generator would get."""

    def plain(self) -> dict[str, Any]:
        """As plain data, as in eval.json."""
        return {
            "metric": self.score.name,
            "value": self.score.value,
            "real_value": self.real_value,
            "higher_is_better": self.score.higher_is_better,
            **self.score.protocol,
        }


@attrs.frozen(kw_only=True)
class _Comparison:
    """One metric that has already seen this process's share of the held-out images."""

    choice: MetricChoice
    metric: Metric
    real_value: float


class Evaluation:
    """Measures models of a run; every process takes its share of the images, and what was gathered is merged.

    Real images are read once, when the first model is scored.
    """

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        self.run = run
        self.accelerator = accelerator
        self.device = accelerator.device
        self._comparisons: list[_Comparison] | None = None

    @torch.no_grad()
    def score(self, objective: Objective) -> list[Result]:
        """Samples from a model and scores it with every metric of the run; the first one is the run's main score."""
        if not self.run.metrics:
            return []
        if self._comparisons is None:
            self._comparisons = self._prepare()
        metrics = [copy.deepcopy(comparison.metric) for comparison in self._comparisons]
        count = self.run.config.eval.samples
        mine = range(self.accelerator.process_index, count, self.accelerator.num_processes)
        with self.accelerator.autocast():
            batches = sample_many(self.run, objective, mine, self.device)
            self._feed(batches, len(mine), "sampling", lambda i, *seen: metrics[i].update(*seen, generated=True))
        return [
            Result(score=self._merged(metric), real_value=comparison.real_value)
            for metric, comparison in zip(metrics, self._comparisons, strict=True)
        ]

    def _prepare(self) -> list[_Comparison]:
        """Shows the held-out images to every metric, and scores training images against them."""
        choices = self.run.metrics
        metrics = [choice.make() for choice in choices]
        test, train = self.run.data.test(), self.run.data.train()
        self._read(test, len(test), lambda i, *seen: metrics[i].update(*seen, generated=False))
        real = copy.deepcopy(metrics)
        count = min(len(train), self.run.config.eval.samples)
        self._read(train, count, lambda i, *seen: real[i].update(*seen, generated=True))
        return [
            _Comparison(choice=choice, metric=metric, real_value=self._merged(perfect).value)
            for choice, metric, perfect in zip(choices, metrics, real, strict=True)
        ]

    def _read(self, images: ImageSet, count: int, take: Callable[..., None]) -> None:
        chosen = torch.randperm(len(images), generator=generator(0, "evaluation"))[:count]
        mine: list[int] = chosen[self.accelerator.process_index :: self.accelerator.num_processes].tolist()
        batches = chunks(mine, self.run.config.sample.batch_size)
        self._feed(
            (batch.images for batch in read(images, batches, self.run.config.train)), len(mine), "real images", take
        )

    def _feed(
        self, batches: Iterable[UInt8[Tensor, "b c h w"]], count: int, title: str, take: Callable[..., None]
    ) -> None:
        """Shows images to every metric: `take(number of the metric, images, features)`."""
        bar = tqdm(total=count, desc=title, unit="image", disable=not self.accelerator.is_main_process, leave=False)
        with bar:
            for batch in batches:
                images = batch.to(self.device)
                seen: dict[int, Features] = {}  # metrics with the same encoder share its features
                for number, choice in enumerate(self.run.metrics):
                    if choice.source is not None and id(choice.source) not in seen:
                        with torch.autocast(self.device.type, enabled=False):
                            seen[id(choice.source)] = choice.source.perceive(to_float(images))
                    take(number, images, None if choice.source is None else seen[id(choice.source)])
                bar.update(len(images))

    def _merged(self, metric: Metric) -> Score:
        """The score of what all processes have gathered."""
        state = {name: tensor.cpu() for name, tensor in metric.state().items()}
        metric.merge(gather_object([state]))
        try:
            score = metric.score()
        except UserError as error:
            raise UserError(f"{error} (set --eval.samples to more)") from error
        return score


def evaluated_step(folder: RunFolder) -> int | None:
    """The step that eval.json is about; None if there is none that can be read."""
    try:
        return json.loads(folder.eval.read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def describe_results(results: Sequence[Result], run: Run, step: int) -> dict[str, Any]:
    """The scores of a model and all that they depend on, as plain data; the first score stands at the top."""
    config = run.config
    guidance, solver, data = (config.part(section) for section in ("guidance", "solver", "data"))
    protocol = {
        "samples": config.eval.samples,
        "step": step,
        "ema_decay": config.train.ema_decays[0] if config.train.ema_decays else None,
        "seed": config.seed,
        "sample": to_plain(config.sample),
        "guidance": {"name": guidance.name, **to_plain(guidance.config)},
        "solver": {"name": solver.name, **to_plain(solver.config)},
        "labels": "balanced: image index modulo the number of classes",
        "reference": f"held-out split of {data.name}",
        "torch": str(torch.__version__),
    }
    return results[0].plain() | protocol | {"scores": [result.plain() for result in results]}


def write_results(results: Sequence[Result], run: Run, step: int, folder: RunFolder) -> None:
    """Writes eval.json."""
    write_atomic(folder.eval, json.dumps(describe_results(results, run, step), indent=1) + "\n")
