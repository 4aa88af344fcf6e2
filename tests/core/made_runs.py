"""Run folders that were written down instead of trained, with any scores, times and costs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import tiny
import yaml
from PIL import Image

from vco.config.resolve import to_plain_run
from vco.facts import RunFacts
from vco.folder import RunFolder

PROTOCOL = {"score": "FD (digits-cnn)", "images": 60, "labels": "balanced", "reference": "1f"}


def made_run(
    path: Path,
    *options: str,
    scores: Mapping[int, float],
    seconds: float = 0.5,
    flops: float | None = 1e6,
    protocol: Mapping[str, Any] = PROTOCOL,
    metric: str = "FD (digits-cnn)",
    higher_is_better: bool = False,
    names: tuple[str, ...] = tuple("0123456789"),
) -> Path:
    """Writes a run folder.

    Args:
        path: where it goes.
        options: of the command line of a tiny run.
        scores: step -> score; the last one is that of the finished run.
        seconds: how long a step took.
        flops: arithmetic of training with an image; None as if it could not be counted.
        protocol: how the scores were measured.
        metric: their name.
        higher_is_better: what is better.
        names: of the classes.
    """
    folder, last = RunFolder(path), max(scores, default=30)
    config = tiny.invocation(path, "--train.steps", str(last), *options).config
    folder.samples.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump(to_plain_run(config), sort_keys=False))
    facts = RunFacts(image_shape=(1, 8, 8), num_classes=len(names), features={}, class_names=names)
    folder.facts.write_text(yaml.safe_dump(facts.plain()))
    pace = {"seconds.data": 0.1 * seconds, "seconds.step": 0.9 * seconds, "seconds.rest": 0.2, "images_per_second": 9.0}
    logged = [{"step": step, "loss": 2 / step, "image": 1 / step, **pace} for step in range(1, last + 1)]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in logged))
    lines = [_line(step, value, protocol, metric, higher_is_better) for step, value in scores.items()]
    folder.evals.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if lines:
        folder.eval.write_text(json.dumps(lines[-1]))
    cost = {"parameters": {"backbone": 1000}, "frozen_parameters": {}, "training_flops_per_image": flops}
    folder.cost.write_text(json.dumps(cost))
    folder.begin_session({"time": "2026-01-01T00:00:00+00:00", "step": 0, "command": "vco-run", "device": "cpu"})
    for step in (0, last):
        Image.new("L", (40, 16), step).save(folder.grid(step))
    Image.new("L", (40, 16), 200).save(folder.real)
    return path


def add_score(path: Path, step: int, value: float, scale: float, **more: Any) -> None:
    """Adds a score at another guidance scale."""
    line = _line(step, value, PROTOCOL, "FD (digits-cnn)", False) | more
    line["guidance"] = {**line["guidance"], "scale": scale}
    with RunFolder(path).evals.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _line(step: int, value: float, protocol: Mapping[str, Any], metric: str, higher_is_better: bool) -> dict[str, Any]:
    score = {
        "metric": metric,
        "title": metric,
        "value": value,
        "real_value": 0.5,
        "higher_is_better": higher_is_better,
        "protocol": dict(protocol),
    }
    how = {"guidance": {"name": "cfg", "scale": 1.5}, "solver": {"name": "heun"}, "sample": {"steps": 5}, "seed": 0}
    return {"step": step, "by": "training", **score, **how, "ema_decay": 0.9, "scores": [score]}


def without_settings(path: Path) -> Path:
    """Takes away what says which run it is."""
    RunFolder(path).config.unlink()
    return path


def with_facts(path: Path, **changed: Any) -> None:
    """Changes what the folder remembers of its data."""
    folder = RunFolder(path)
    folder.facts.write_text(yaml.safe_dump(attrs.evolve(folder.read_facts(), **changed).plain()))
