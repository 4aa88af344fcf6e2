"""Memory of a training step, with and without --train.checkpoint-blocks; counted, not measured.

It checks what `vco-run --dry-run --gpu-memory GB` predicts, in another way, which takes a minute a preset: every
operation of forward and backward pass is followed. The last column has the prediction.

The step is made with tensors that have shapes and no content (PyTorch's FakeTensor), so that the largest network fits
on a laptop. What is counted is the memory of all tensors that are alive at the same time, under bf16 autocast; what a
GPU's allocator and its kernels take besides is not in it. The presets' hybrid loss looks at values, which these tensors
have not: the loss `perceptual`, which goes through the encoder as well, stands in for it.

    python benchmarks/memory.py [--presets imagenet256-b16 ...] [--gpu 80] > memory.md
"""

import argparse
import weakref
from typing import Any, Final, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from vco import api
from vco.config.command_line import parse
from vco.config.resolve import Invocation, resolve
from vco.objective import Objective
from vco.plugins.discovery import load_catalog
from vco.randomness import RowGenerator
from vco.run import assemble, known_facts
from vco.step_inputs import Inputs
from vco.training.memory import kept_by, size
from vco.training.operations import operations_counter
from vco.training.recomputing import recompute_blocks
from vco_plugins import trunk
from vco_plugins.layers.attention import attention_chosen_by_row

PRESETS: Final = ("imagenet256-b16", "imagenet256-l16", "imagenet256-h16")
OPTIONS: Final = ("--data.root", ".", "--features.weights", "random", "--loss", "perceptual", "--metric", "none")
GIB: Final = 2**30
IMAGES: Final = (2, 6)
"""Batches whose difference is what an image takes."""
PER_PARAMETER: Final = 24
"""Bytes of a weight, its gradient, two moments and two averages, float32."""


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that were made inside it and are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.known: weakref.WeakKeyDictionary[torch.UntypedStorage, None] = weakref.WeakKeyDictionary()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Does what it is asked to do, and notes the memory of what comes of it."""
        answer = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(answer):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self.known:
                storage = tensor.untyped_storage()
                self.known[storage] = None
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return answer

    def _change(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


class NoValues(RowGenerator):
    """Draws tensors without content."""

    def _draw(self, function: Any, shape: Any) -> Tensor:
        return torch.empty(len(self.slots), *shape)


def without_content(module: nn.Module, fake: FakeTensorMode) -> None:
    """Takes the content of a module's weights and buffers away."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(fake.from_tensor(parameter.data), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, fake.from_tensor(buffer))


def made(asked: Invocation, fake: FakeTensorMode) -> Objective:
    """What a run trains, with its encoders, without content."""
    facts = known_facts(asked.config, asked.catalog)
    setting = api.FeatureSetting(image_shape=facts.image_shape)
    encoders: dict[str, api.FeatureSource] = {}
    for name, part in asked.config.all_of("features").items():
        encoders[name] = part.component(part.config, setting)
        encoders[name].load()
        without_content(encoders[name], fake)
    with fake:
        objective = assemble(asked.config, asked.catalog, facts=facts).objective.train()
    objective.sources.update(encoders)
    return objective


def step(objective: Objective, fake: FakeTensorMode, shape: tuple[int, ...], images: int) -> tuple[int, int, int]:
    """A training step, without values.

    Returns:
        Bytes that are kept for its backward pass and that are taken at most, both beside the weights; its operations.
    """
    objective.zero_grad(set_to_none=True)
    draw = objective.draw(torch.zeros(images, dtype=torch.long), seed=0, step=0)
    counter = operations_counter()
    as_on_a_gpu = mock.patch.object(trunk, "joint_attention", attention_chosen_by_row)
    with as_on_a_gpu, fake, counter, Live() as live, torch.autocast("cpu", dtype=torch.bfloat16):
        inputs = Inputs(
            images=torch.empty(images, *shape),
            labels=torch.empty(images, dtype=torch.long),
            noise={name: torch.empty(images, *spec.shape) for name, spec in objective.specs.items()},
            generator=NoValues((0,), range(images)),
        )
        loss = objective(inputs, draw.map(fake.from_tensor), 0)["loss"]
        kept = live.now
        loss.backward()
    return kept, live.most, counter.get_total_flops()


class Counted(NamedTuple):
    """What a step of a preset takes."""

    parameters: int
    operations: float
    """Floating-point operations for each image; blocks that are recomputed take more."""
    image: tuple[float, float]
    """Bytes kept for the backward pass for each image, plain and with blocks recomputed."""
    rest: tuple[float, float]
    """Bytes that do not grow with the images, at the peak: gradients, and the weights in bf16."""


def counted(preset: str) -> Counted:
    """What a step of a preset takes."""
    asked = resolve(parse(["--preset", preset, *OPTIONS]), load_catalog())
    shape = known_facts(asked.config, asked.catalog).image_shape
    slopes, rests, operations = list[float](), list[float](), list[float]()
    for recomputed in (False, True):
        fake = FakeTensorMode()
        objective = made(asked, fake)
        if recomputed:
            recompute_blocks(objective.backbone)
        few, few_most, some = step(objective, fake, shape, IMAGES[0])
        many, many_most, _ = step(objective, fake, shape, IMAGES[1])
        operations.append(some / IMAGES[0])
        slopes.append((many - few) / (IMAGES[1] - IMAGES[0]))
        growth = (many_most - few_most) / (IMAGES[1] - IMAGES[0])
        rests.append(few_most - IMAGES[0] * growth)
    parameters = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    return Counted(parameters, operations[0], (slopes[0], slopes[1]), (rests[0], rests[1]))


def predicted(preset: str) -> str:
    """What a dry run says of an image, with the preset's own loss."""
    asked = resolve(parse(["--preset", preset, "--data.root", "."]), load_catalog())
    kept = kept_by(assemble(asked.config, asked.catalog, device="meta"), bf16=True)
    return kept if isinstance(kept, str) else size(kept.image)


def main() -> None:
    """Counts, and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--gpu", type=float, default=80.0, help="memory of a GPU in GB (default 80)")
    args = parser.parse_args()
    fit_in = f"images in {args.gpu:.0f} GB"
    print(f"| preset | parameters | state | kept for an image | recomputed | {fit_in} | recomputed | predicted |")
    print("|---|---|---|---|---|---|---|---|")
    for preset in tqdm(args.presets):
        found = counted(preset)
        state = PER_PARAMETER * found.parameters
        fit = [
            max(0, int((args.gpu * 1e9 - state - max(0.0, rest - 4 * found.parameters)) / image))
            for image, rest in zip(found.image, found.rest, strict=True)
        ]
        print(
            f"| {preset} | {found.parameters / 1e6:,.0f} M | {state / 1e9:.1f} GB | {found.image[0] / 1e6:,.0f} MB "
            f"| {found.image[1] / 1e6:,.0f} MB | {fit[0]:,} | {fit[1]:,} | {predicted(preset)} |"
        )


if __name__ == "__main__":
    main()
