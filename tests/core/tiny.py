"""A run of a second or two: every part of the default run, at the smallest size."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vco import checkpoint
from vco.launch import meet
from vco.plugins import load_catalog
from vco.resolve import resolve
from vco.run import assemble
from vco.train import Training

STEPS = 6
SIZES = {
    "backbone.width": 16, "backbone.depth": 2, "backbone.heads": 2, "backbone.context-start": 1,
    "train.batch-size": 20, "train.samples-per-class": 2, "train.fit-samples": 60, "train.warmup-steps": 2,
    "train.log-every": 1, "train.checkpoint-every": 100, "train.sample-every": 100, "train.steps": STEPS,
    "sample.steps": 1, "sample.grid-rows": 1, "eval.samples": 20, "mixed-precision": "fp32",
}  # fmt: skip


def argv(folder: Path, *options: str) -> list[str]:
    """The command line of a tiny run; later options win."""
    sizes = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    return [*sizes, "--output-dir", str(folder), *options]


def prepare(folder: Path, *options: str) -> Training:
    """A tiny run as `vco-run` would begin it."""
    invocation = resolve(argv(folder, *options), load_catalog())
    run = assemble(invocation.config, invocation.catalog)
    for source in run.sources.values():
        source.load()
        source.requires_grad_(False).eval()
    folder.mkdir(parents=True, exist_ok=True)
    return Training(run, meet(invocation.config), folder)


def train(folder: Path, *options: str) -> Training:
    """A tiny run, trained to its last step."""
    training = prepare(folder, *options)
    assert training.train() == 0
    return training


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, str]:
    """Step -> its total loss, every bit of it."""
    return {line["step"]: line["loss"].hex() for line in metrics(folder)}


def tensors(folder: Path, step: int = STEPS) -> dict[str, Tensor]:
    """All tensors of a checkpoint: the model's, the averages', the optimizer's."""
    saved = checkpoint.load(folder / "checkpoints" / f"step-{step:08d}").tensors
    return {f"{stem}/{name}": value for stem, part in saved.items() for name, value in part.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Fails unless both hold the same tensors, bit for bit."""
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []
