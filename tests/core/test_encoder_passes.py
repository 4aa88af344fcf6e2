"""How often a training step runs its encoders: docs/performance.md, "Passes of the encoder"."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import make_run

from vco.randomness import RowGenerator, noise
from vco.step_inputs import Inputs

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
ONE_VIEW = ("--data", "digits", "--features", "digits-vit", "--backbone.patch", "2")
TWO_VIEWS = ("--data", "clothing32", "--features", "clothing-vit", "--backbone.patch", "4")
RESIZED = (*TWO_VIEWS, "--features.resolution", "64", "--backbone.patch", "2")
ALONE = ("--backbone", "jit", "--adapter", "none", "--guidance", "cfg")
DUAL = ("--backbone", "jit-dual", "--adapter", "coredi")


def passes(*options: str) -> int:
    """Forward passes of the encoder's network in one step."""
    run = make_run(*options)
    objective = run.objective
    count, specs = 4, objective.specs
    labels, slots = torch.zeros(count, dtype=torch.long), range(count)
    images = noise({"": run.facts.image_shape}, slots, 0, "images")[""]
    shapes = {stream: spec.shape for stream, spec in specs.items()}
    inputs = Inputs(
        images=images, labels=labels, noise=noise(shapes, slots, 0), generator=RowGenerator((0, "draws"), slots)
    )
    seen: list[Any] = []
    for source in objective.sources.values():
        first: Any = next(module for module in source.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_hook(lambda *call: seen.append(call))
    objective(inputs, objective.draw(labels, seed=0, step=0))["loss"].backward()
    return len(seen)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("`jit`", (*ALONE, "--loss", "none")),
        ("`repa`", (*ALONE, "--loss", "repa", "--loss.block", "1")),
        ("`jit-dual`", (*DUAL, "--loss", "none")),
        ("`perceptual`", (*ALONE, "--loss", "perceptual")),
        ("`hybrid`", (*DUAL, "--loss", "hybrid")),
        ("`drifting`", (*DUAL, "--loss", "drifting")),
    ],
)
def test_passes_are_as_many_as_the_page_says(method: str, options: tuple[str, ...]) -> None:
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| {method}"))
    one, two, resized = (int(cell) for cell in re.findall(r"\| (\d)(?= )", row))
    assert passes(*ONE_VIEW, *options) == one
    assert passes(*TWO_VIEWS, *options) == two
    assert passes(*RESIZED, *options) == resized
