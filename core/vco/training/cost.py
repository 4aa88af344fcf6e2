"""What a run costs: the parameters of its components, and the arithmetic of training it with one image.

The arithmetic is counted in one step of a copy of the networks, which leaves the run as it is.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vco.api import ImageSet
from vco.collectives import alone
from vco.randomness import RowGenerator, noise
from vco.run import Run
from vco.step_inputs import Inputs
from vco.storage.files import write_atomic
from vco.training.operations import operations_counter


def note_cost(path: Path, run: Run, images: ImageSet, indices: Sequence[int], accelerator: Accelerator) -> None:
    """Writes cost.json, if it is not there; every process counts, and the first one writes."""
    if not path.exists():
        with accelerator.autocast():
            cost = cost_of(run, images, indices, accelerator.device)
        if accelerator.is_main_process:
            write_atomic(path, json.dumps(cost, indent=1) + "\n")


def cost_of(run: Run, images: ImageSet, indices: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What cost.json holds.

    Args:
        run: the run, with its frozen parts loaded, on `device`.
        images: the training set.
        indices: the images of a batch, as large as it is for one forward pass.
        device: where the run is.
    """
    trained = {name: _size(part, trained=True) for name, part in run.objective.components.items()}
    return {
        "parameters": {name: size for name, size in trained.items() if size},
        "frozen_parameters": {place: size for place, part in run.frozen.items() if (size := _size(part))},
        "training_flops_per_image": training_flops(run, images, indices, device),
    }


def training_flops(run: Run, images: ImageSet, indices: Sequence[int], device: torch.device) -> float | None:
    """Floating-point operations of one training step, for each image: an addition and a multiplication are two.

    Encoders and the backward pass are in it; the optimizer, which needs far less, is not.

    Returns:
        The count, or None if a component stands in the way of counting.
    """
    beside, labels = run.objective.beside, images.labels[torch.tensor(indices)]
    with suppress(Exception), alone():  # of anybody's code
        twin = copy.deepcopy(run.objective, {id(part): part for part in beside.values()}).train()
        with operations_counter() as counter:
            # drawn by the twin: a process that learns gets gradients through what it draws
            draw = twin.draw(labels, seed=0, step=0).map(lambda tensor: tensor.to(device))
            twin(_inputs(run, images, indices, device), draw, 0)["loss"].backward()
        return counter.get_total_flops() / len(indices)
    return None


def _inputs(run: Run, images: ImageSet, indices: Sequence[int], device: torch.device) -> Inputs:
    """A batch with the classes of these images and with what travels with them; its pixels are noise."""
    slots, shape, specs = range(len(indices)), run.objective.codec.noise_shape, run.objective.specs
    extras = [images.extras(index) for index in indices]

    def drawn(name: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        return noise(shapes, slots, 0, "cost", name, device=device)

    return Inputs(
        images=drawn("images", {"": run.facts.image_shape})[""].clamp(-1, 1),
        labels=images.labels[torch.tensor(indices)].to(device),
        noise=drawn("noise", {stream: spec.shape for stream, spec in specs.items()}),
        generator=RowGenerator((0, "cost"), slots, device),
        encoding_noise=None if shape is None else drawn("codec", {"": shape})[""],
        extras={name: torch.stack([extra[name] for extra in extras]).to(device) for name in extras[0]},
    )


def _size(part: nn.Module | Any, trained: bool = False) -> int:
    return sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad or not trained)
