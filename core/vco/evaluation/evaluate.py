"""Scores of a model: generated images against real ones, by every metric of the run."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from vco import content
from vco.compiling import tally
from vco.distributed import precision_of
from vco.evaluation.baseline import real_values
from vco.evaluation.checks import Checks
from vco.evaluation.measure import SAMPLES, Measure, Prepared, settings_of
from vco.evaluation.moments import Cache
from vco.evaluation.protocol import digest
from vco.evaluation.reference import DataReference, Reference
from vco.evaluation.results import Result, results_of
from vco.objective import Objective
from vco.pieces import in_pieces
from vco.run import Run
from vco.sampling.labels import labels_of
from vco.sampling.sample import sample_many
from vco.sampling.settings import acting


class Evaluation:
    """Measures models of a run; every process takes its share of the images, and what was gathered is merged.

    Real images are read once, when the first model is scored.
    """

    def __init__(
        self,
        run: Run,
        accelerator: Accelerator,
        references: Sequence[Reference] | None = None,
        cache: Cache | None = None,
        baseline: bool = True,
        say: Callable[[str], None] = tqdm.write,
        option: str = SAMPLES,
    ) -> None:
        """Remembers what to measure.

        Args:
            run: components, metrics and settings.
            accelerator: the processes.
            references: what its images are held against, one after the other; by default the held-out images.
            cache: where the moments of real images are kept.
            baseline: whether real images are scored too, of those references that know some.
            say: is told once of everything that a reader of the scores has to know.
            option: what sets the number of samples, for messages.
        """
        self.run = run
        self.accelerator = accelerator
        self.device = accelerator.device
        self.measure = Measure(run.metrics, accelerator, run.facts.image_shape, option)
        self._given = references
        self._cache = cache
        self._tell = say
        self._baseline = baseline
        self._prepared: list[Prepared] | None = None
        self._real: list[tuple[Mapping[str, float], Sequence[str]]] | None = None
        self._said: set[str] = set()
        self._models: WeakKeyDictionary[Objective, str] = WeakKeyDictionary()

    def labels(self, seed: int = 0) -> Int[Tensor, " n"]:
        """Class of every image that is generated; the seed orders those of the law "data"."""
        run, law = self.run, self.run.config.eval.labels
        counts: Sequence[int] = run.facts.class_counts.get("train", ())
        if law == "data" and not counts and run.at_hand is not None:
            counts = run.data.train().labels.bincount(minlength=run.facts.num_classes).tolist()
        wanted = range(run.config.eval.samples)
        return labels_of(law, wanted, num_classes=run.facts.num_classes, counts=counts, seed=seed)

    def of(self, run: Run, *, baseline: bool) -> "Evaluation":
        """The same for other settings of sampling or another number of images; references are not read again.

        Args:
            run: the same run with these settings.
            baseline: whether real images are scored too.
        """
        other = Evaluation(run, self.accelerator, self._references, self._cache, baseline, self._tell)
        other.measure, other._prepared, other._said = self.measure, self._prepare(), self._said
        if baseline == self._baseline and run.config.eval == self.run.config.eval:
            other._real = self._score_real()
        return other

    @torch.no_grad()
    def score(self, objective: Objective, *, seed: int | None = None, notes: Sequence[str] = ()) -> list[Result]:
        """Samples from a model and scores it with every metric of the run; the first one is the run's main score.

        Args:
            objective: the model, on the device.
            seed: seed of its samples; by default the run's.
            notes: what is known already that a reader of the scores should know.
        """
        if not self.run.metrics:
            return []
        seed = self.run.config.seed if seed is None else seed
        prepared, real, law = self._prepare(), self._score_real(), self.run.config.eval.labels
        labels, mine = self.labels(seed), self.measure.share(self.run.config.eval.samples)
        checks = Checks()
        with self.accelerator.autocast():
            batches = sample_many(
                self.run, objective, labels[list(mine)], mine, self.device, seed, self._most(objective)
            )
            generated = self.measure.gather(batches, len(mine), "sampling", generated=True, checks=checks)
        if self.accelerator.is_main_process:
            tally.tell(tqdm.write)
        results: list[Result] = []
        for reference, (values, _) in zip(prepared, real, strict=True):
            results += results_of(self.measure, generated, reference, values, len(labels), law)
        noted = [*notes, *checks.notes("samples"), *self._aligned()]
        noted += [note for _, more in real for note in more]
        noted += [warning for result in results for warning in result.protocol.warnings()]
        noted = list(dict.fromkeys(noted))
        self._say(noted)
        made = {**self.how_made(objective, seed), "images_sha256": checks.hash, "notes": noted}
        return [attrs.evolve(result, made=made) for result in results]

    def _most(self, objective: Objective) -> int:
        """The batches of the process that has most images, where all have to make equally many; else 0."""
        config = self.run.config
        images = -(-config.eval.samples // self.accelerator.num_processes)
        return -(-images // config.sample.batch_size) if in_pieces(objective) else 0

    def how_made(self, objective: Objective, seed: int) -> dict[str, Any]:
        """How the images of a model are made and measured, as plain data.

        "made" is a hash of all that the images depend on, and "key" of that and of all metrics and references.
        """
        config, weak = self.run.config, objective.weak
        depends = {
            "model": self._weights(objective),
            "weak_model": self._weights(weak) if weak else "",
            "samples": config.eval.samples,
            "seed": seed,
            "settings": acting(config),
            "labels": config.eval.labels,
            "precision": precision_of(config, self.device),
        }
        key = {
            **depends,
            "metrics": [
                [choice.part.name, settings_of(choice.part), self.measure.encoder(number)]
                for number, choice in enumerate(self.run.metrics)
            ],
            "references": [reference.hash for reference in self._references],
            "baselines": [self._baseline and reference.real is not None for reference in self._references],
        }
        shown = {name: depends[name] for name in ("model", "seed", "precision")}
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {**shown, "device": device, "made": digest(depends), "key": digest(key)}

    def _weights(self, model: Objective) -> str:
        if model not in self._models:
            self._models[model] = content.of_weights(model)
        return self._models[model]

    @cached_property
    def _references(self) -> Sequence[Reference]:
        return [held_out(self.run)] if self._given is None else self._given

    def _prepare(self) -> list[Prepared]:
        """Shows all references to all metrics."""
        if self._prepared is None:
            self._prepared = [reference.prepare(self.measure, self._cache) for reference in self._references]
        return self._prepared

    def _score_real(self) -> list[tuple[Mapping[str, float], Sequence[str]]]:
        """The scores of real images against each reference, by name, and notes about them."""
        if self._real is None:
            self._real = [
                real_values(self.measure, prepared, reference.real, self.labels(), self.run.config)
                if self._baseline and reference.real is not None
                else ({}, [])
                for reference, prepared in zip(self._references, self._prepare(), strict=True)
            ]
        return self._real

    def _aligned(self) -> list[str]:
        """A sentence for every encoder that the run was trained with and that scores it too."""
        config, facts = self.run.config, self.run.facts
        trained_with = {name: config.all_of("features")[name] for name in facts.features}
        notes: list[str] = []
        for number, choice in enumerate(self.run.metrics):
            if choice.encoder is None:
                continue
            weights = self.measure.encoder(number)["weights"]
            for name, part in trained_with.items():
                same = (part.registered, part.config) == (choice.encoder.name, choice.encoder.config)
                if same or facts.contents.get(f"features.{name}") == weights:
                    notes.append(
                        f"the run was trained with the features of {name}, which score it too: {choice.part.title} "
                        f"through {choice.encoder.name} rewards that; use another encoder to compare methods"
                    )
        return notes

    def _say(self, notes: Sequence[str]) -> None:
        """Prints what has not been printed before."""
        for note in notes:
            if note not in self._said and self.accelerator.is_main_process:
                self._tell(f"note: {note}")
            self._said.add(note)


def held_out(run: Run) -> DataReference:
    """The held-out images of a run's data set; its training images are what a perfect generator would make."""
    data = run.data
    name = f"held-out split of {run.config.part('data').name}"
    return DataReference(data, data.test(), name, run.config, real=data.train())
