"""What was measured: scores with all that they depend on, in eval.json and in evals.jsonl.

A score is named after the network that looks at the images, "FD (digits-cnn)", and called FID only where that network
and the protocol are FID's.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import torch

from vco import __version__
from vco.api import Score
from vco.config.plain import to_plain
from vco.evaluation import records
from vco.evaluation.measure import Measure, Prepared, State
from vco.evaluation.protocol import Protocol
from vco.folder import RunFolder
from vco.run import Run
from vco.storage.files import write_atomic

LAWS: Final = {
    "balanced": "balanced: image index modulo the number of classes",
    "data": "data: as often as in the training set, in a seeded order",
}
"""Label law -> what is written beside a score."""


@attrs.frozen(kw_only=True)
class Result:
    """What one metric says about images, held against one reference."""

    score: Score
    real_value: float | None
    """The same score of as many real images, drawn by the same label law: what a perfect generator would get."""
    reference: str
    """What the images were held against; empty for a metric that needs no real images."""
    protocol: Protocol
    made: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """How the images were made, and what was noticed; the same for all scores of the same images."""

    def plain(self) -> dict[str, Any]:
        """As plain data, as in eval.json."""
        return {
            "metric": self.score.name,
            "value": self.score.value,
            "real_value": self.real_value,
            "higher_is_better": self.score.higher_is_better,
            **self.score.protocol,
            "title": self.protocol.title,
            "reference": self.reference,
            "protocol_hash": self.protocol.hash,
            "protocol": self.protocol.plain(),
        }


def results_of(
    measure: Measure,
    generated: Mapping[int, State],
    reference: Prepared,
    real_values: Mapping[str, float],
    images: int,
    labels: str,
) -> list[Result]:
    """The scores of images that all metrics have seen.

    Args:
        measure: the metrics.
        generated: what they keep of the images.
        reference: what the images are held against.
        real_values: name of a score -> that of real images, as far as these are known.
        images: how many images there are.
        labels: law by which their classes were drawn.
    """
    found: list[Result] = []
    for number, scores in enumerate(measure.scores(generated, reference)):
        for score in scores:
            protocol = measure.protocol(number, score, reference, images, labels)
            held_against = reference.name if protocol.reference else ""
            real = real_values.get(score.name)
            found.append(Result(score=score, real_value=real, reference=held_against, protocol=protocol))
    return found


def evaluated_step(folder: RunFolder) -> int | None:
    """The step that eval.json is about; None if there is none that can be read."""
    try:
        return json.loads(folder.eval.read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def describe_results(
    results: Sequence[Result], run: Run, step: int, ema_decay: float | str | None = "first"
) -> dict[str, Any]:
    """The scores of a model and all that they depend on, as plain data; the first score stands at the top.

    Args:
        results: the scores.
        run: the run that was sampled from.
        step: of which step its weights are.
        ema_decay: decay rate of their average; None for the last weights themselves, "first" for the run's first.
    """
    config = run.config
    guidance, solver, process = (config.part(section) for section in ("guidance", "solver", "process"))
    if ema_decay == "first":
        ema_decay = config.train.ema_decays[0] if config.train.ema_decays else None
    sampled = {
        "samples": config.eval.samples,
        "step": step,
        "ema_decay": ema_decay,
        "seed": config.seed,
        "sample": to_plain(config.sample),
        "guidance": {"name": guidance.name, **to_plain(guidance.config)},
        "solver": {"name": solver.name, **to_plain(solver.config)},
        "process": {"name": process.name, **to_plain(process.config)},
        "labels": LAWS[config.eval.labels],
    }
    return describe_scores(results, sampled)


def describe_scores(results: Sequence[Result], about: Mapping[str, Any]) -> dict[str, Any]:
    """Scores and what is known about the images, as plain data; the first score stands at the top."""
    versions = {"torch": str(torch.__version__), "vco": __version__}
    scores = [result.plain() for result in results]
    return {**scores[0], **about, **versions, **results[0].made, "scores": scores}


def record_results(results: Sequence[Result], run: Run, step: int, folder: RunFolder) -> None:
    """Adds what was measured in the midst of training to evals.jsonl."""
    records.append(folder.evals, describe_results(results, run, step), records.TRAINING)


def write_results(results: Sequence[Result], run: Run, step: int, folder: RunFolder) -> None:
    """Writes eval.json, and adds a line to evals.jsonl."""
    described = describe_results(results, run, step)
    write_atomic(folder.eval, json.dumps(described, indent=1) + "\n")
    records.append(folder.evals, described, records.RUN)
