"""Tiny runs for tests of losses: everything between the images and the total, with random weights."""

from dataclasses import replace

import torch
from torch import nn

from vco.config.command_line import parse
from vco.config.resolve import resolve
from vco.objective import Objective
from vco.plugins.discovery import load_catalog
from vco.randomness import RowGenerator, noise
from vco.run import Run, assemble
from vco.step_inputs import Draw, Inputs

SIZES = {
    "backbone.width": 16, "backbone.depth": 2, "backbone.heads": 2, "backbone.bottleneck": 8,
    "backbone.context-start": 1, "backbone.context-tokens": 2, "train.batch-size": 20, "train.samples-per-class": 2,
}  # fmt: skip
ONE_STREAM = ("--backbone", "jit", "--adapter", "none", "--guidance", "cfg")
TWO_STREAMS = ("--backbone", "jit-dual", "--adapter", "none", "--guidance", "structural", "--guidance.drop", "0.5")


def make_run(*options: str) -> Run:
    """A run whose trained weights are random: heads start at zero, which would hide mistakes."""
    catalog = load_catalog()
    sizes = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    run = assemble(resolve(parse([*sizes, *options]), catalog).config, catalog)
    run.load()
    draws = torch.Generator().manual_seed(0)
    for parameter in run.objective.parameters():
        nn.init.normal_(parameter, std=0.1, generator=draws)
    return run


def batch(objective: Objective, count: int = 20, step: int = 0) -> tuple[Inputs, Draw]:
    """Random images of ten classes, and the random part of a step."""
    shapes = {stream: spec.shape for stream, spec in objective.specs.items()}
    labels, slots = torch.arange(count) % 10, range(step * count, (step + 1) * count)
    inputs = Inputs(
        images=torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(step)) * 2 - 1,
        labels=labels,
        noise=noise(shapes, slots, 0, "noise"),
        generator=RowGenerator((0, "draws"), slots),
    )
    return inputs, objective.draw(labels, seed=0, step=step)


def share(rows: slice, inputs: Inputs, draw: Draw) -> tuple[Inputs, Draw]:
    """Some rows of a batch, as one of several processes has them."""
    part = replace(
        inputs,
        images=inputs.images[rows],
        labels=inputs.labels[rows],
        noise={stream: value[rows] for stream, value in inputs.noise.items()},
        generator=RowGenerator(inputs.generator.key, inputs.generator.slots[rows]),
    )
    return part, draw.map(lambda tensor: tensor[rows])
