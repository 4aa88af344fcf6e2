"""A run of a second or two: every part of the default run, at the smallest size."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vco.config.command_line import parse
from vco.config.resolve import Invocation, resolve
from vco.data.reader import to_float
from vco.distributed import connect_processes
from vco.folder import RunFolder
from vco.objective import Draw, Inputs
from vco.plugins.discovery import load_catalog
from vco.randomness import RowGenerator, noise
from vco.run import assemble
from vco.storage import checkpoint
from vco.training.loop import Training

STEPS = 6
BATCH = 20
SIZES_OF_NETWORK = {
    "backbone.width": 16, "backbone.depth": 2, "backbone.heads": 2, "backbone.context-start": 1,
}  # fmt: skip
"""What a toy network has no options for."""
SIZES = {
    "train.batch-size": BATCH, "train.samples-per-class": 2, "train.fit-samples": 60, "train.warmup-steps": 2,
    "train.log-every": 1, "train.checkpoint-every": 100, "train.sample-every": 100, "train.steps": STEPS,
    "sample.steps": 1, "sample.grid-rows": 1, "eval.samples": 20, "mixed-precision": "fp32",
}  # fmt: skip
ONE_STREAM = ("--backbone", "jit", "--adapter", "none", "--guidance", "cfg", "--loss", "none")
"""Options of a run that denoises nothing but the image."""
TOY = ("--plugin", "toy_plugin", "--backbone", "toy", "--adapter", "none", "--guidance", "cfg")
"""Options of a run with the toy network; its losses are still to be chosen."""


def argv(folder: Path, *options: str) -> list[str]:
    """The command line of a tiny run; later options win."""
    networks = ["", *(value for option, value in pairwise(options) if option == "--backbone")]
    sizes = SIZES if networks[-1].startswith("toy") else SIZES_OF_NETWORK | SIZES
    given = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    return [*given, "--output-dir", str(folder), *options]


def invocation(folder: Path, *options: str) -> Invocation:
    """What the command line of a tiny run asks for."""
    return resolve(parse(argv(folder, *options)), load_catalog())


def not_begun(folder: Path, *options: str) -> Training:
    """A tiny run whose frozen parts are loaded, before it has looked for a checkpoint or has fitted its adapter."""
    asked = invocation(folder, *options)
    run = assemble(asked.config, asked.catalog)
    run.load()
    folder.mkdir(parents=True, exist_ok=True)
    return Training(run, connect_processes(asked.config), RunFolder(folder))


def prepare(folder: Path, *options: str) -> Training:
    """A tiny run as `vco-run` would begin it."""
    training = not_begun(folder, *options)
    training.begin()
    return training


def train(folder: Path, *options: str) -> Training:
    """A tiny run, trained to its last step."""
    training = prepare(folder, *options)
    assert training.train() == 0
    return training


def scramble(training: Training, seed: int = 0) -> None:
    """Gives all trained weights random values: heads start at zero, which would hide mistakes."""
    torch.manual_seed(seed)
    for parameter in training.parameters.values():
        torch.nn.init.normal_(parameter, std=0.1)


def batch(training: Training, step: int = 0) -> tuple[Inputs, Draw]:
    """What a step hands to the objective: the whole batch, not augmented, and the random part of the step."""
    index, _ = training.batches.order.batch(step)
    labels = training.batches.order.labels[index]
    size = training.config.batch_size
    slots = range(step * size, (step + 1) * size)
    inputs = Inputs(
        images=to_float(torch.stack([training.images.image(i, None) for i in index.tolist()])),
        labels=labels,
        noise=noise(training.batches.shapes, slots, training.seed, "noise"),
        generator=RowGenerator((training.seed, "draws"), slots),
    )
    return inputs, training.objective.draw(labels, seed=training.seed, step=step)


def share(rows: slice, inputs: Inputs, draw: Draw) -> tuple[Inputs, Draw]:
    """Some rows of a batch, as one of several processes or accumulation steps has them."""
    part = Inputs(
        images=inputs.images[rows],
        labels=inputs.labels[rows],
        noise={stream: value[rows] for stream, value in inputs.noise.items()},
        generator=RowGenerator(inputs.generator.key, inputs.generator.slots[rows]),
        extras={name: value[rows] for name, value in inputs.extras.items()},
    )
    return part, draw.map(lambda tensor: tensor[rows])


def launch(*argv: str, plugins: Path = Path(__file__).parent) -> "subprocess.CompletedProcess[str]":
    """Runs `vco-run` with two processes on the CPU, which find plugins in a folder."""
    return launched("-m", "vco.cli", *argv, plugins=plugins)


def launched(
    *program: str, plugins: Path = Path(__file__).parent, timeout: float = 240.0
) -> "subprocess.CompletedProcess[str]":
    """Runs a program of Python likewise."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    devices = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment = os.environ | devices | {"PYTHONPATH": str(plugins)}
    return subprocess.run([*command, *program], env=environment, capture_output=True, text=True, timeout=timeout)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return lines(folder / "metrics.jsonl")


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


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
