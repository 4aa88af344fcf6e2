"""V-Co's training step against a reference-style one, which is built from the same modules (reference_style.py).

On a CPU the network is S in float32 with a tiny encoder, on a GPU B in bfloat16 with DINOv2-B. Both variants begin with
the same weights, and their losses are compared before anything is timed. MFU is arithmetic done in a second over that
of large matrix multiplications in the same run.

    python benchmarks/step.py [--small] [--compile] [--depth N] [--batch N] [--turns N] [--json FILE]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from reference_style import ReferenceUpdate, in_reference_style
from turns import Row, in_turns, seconds, table, write_json
from vco_parts import Sizes, batch, compile_blocks, flops, make, peak

from vco.api import Condition, OptimizerSetting, ParameterGroup
from vco.objective import Objective
from vco.training.ema import EMA
from vco_plugins.optimizers.adamw import AdamW

DECAYS = (0.9999, 0.9996)
Work = Callable[[], Any]


class OurUpdate:
    """The end of a step as the training loop has it."""

    def __init__(self, module: Objective) -> None:
        groups = [
            ParameterGroup(component=name, parameters={f"{name}.{n}": p for n, p in part.named_parameters()})
            for name, part in module.components.items()
        ]
        rate = OptimizerSetting(learning_rate=1e-4)
        self.optimizer = AdamW(AdamW.Config(), rate).build([group for group in groups if group.parameters])
        self.ema = EMA(module, DECAYS)

    def __call__(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()


class Variant:
    """One way to train: forward and backward pass of everything or of the backbone, and what ends a step."""

    def __init__(self, objective: Objective, update: Work, sizes: Sizes, device: str) -> None:
        self.objective, self.update, self.device = objective.train(), update, device
        self.inputs, self.draw = batch(objective, sizes, device)

    def loss(self) -> torch.Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.device == "cuda"):
            return self.objective(self.inputs, self.draw)["loss"]

    def step(self) -> None:
        self.loss().backward()
        self.update()

    def gradient(self) -> None:
        self.loss().backward()
        self.objective.zero_grad()

    def backbone(self, masked: bool) -> Work:
        told = self.draw.condition
        condition = Condition(labels=told.labels, blocked=told.blocked if masked else {})
        noisy = {"image": self.inputs.images, "features": self.inputs.noise["features"]}

        def work() -> None:
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.device == "cuda"):
                answer = self.objective.backbone(noisy, self.draw.times, condition)
                total = sum(value.float().square().mean() for value in answer.clean.values())
            torch.as_tensor(total).backward()
            self.objective.zero_grad()

        return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a network of two blocks for small images")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of both variants")
    parser.add_argument("--depth", type=int, help="blocks of the network, in place of all")
    parser.add_argument("--batch", type=int, help="images in a step")
    parser.add_argument("--turns", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = {
        "cuda": Sizes(size="B", depth=args.depth, side=256, batch=args.batch or 128, dinov2=True),
        "cpu": Sizes(size="S", depth=args.depth, side=256, batch=args.batch or 8, dinov2=False),
    }[device]
    if args.small:
        sizes = Sizes(size="S", depth=2, side=32, batch=4, dinov2=False)
    turns = args.turns or (2 if args.small else 15 if device == "cuda" else 4)

    ours = make(sizes, device)
    theirs = in_reference_style(make(sizes, device))
    mine = Variant(ours, OurUpdate(ours), sizes, device)
    other = Variant(theirs, ReferenceUpdate(theirs, DECAYS), sizes, device)
    rtol, atol = (2e-2, 1e-2) if device == "cuda" else (1e-4, 1e-5)
    torch.testing.assert_close(mine.loss(), other.loss(), rtol=rtol, atol=atol)
    work = {"V-Co step": mine.gradient, "backbone, masked": mine.backbone(True)}
    counted = {title: flops(one) for title, one in work.items()}
    if args.compile:
        compile_blocks(ours, theirs)

    style = ", compiled" if args.compile else ""
    rows = [in_turns(f"V-Co step, {sizes.title}{style}", mine.step, other.step, turns)]
    for masked in (True, False):
        title = f"backbone, {'masked' if masked else 'unmasked'}, {sizes.title}{style}"
        rows.append(in_turns(title, mine.backbone(masked), other.backbone(masked), turns))
    mine.gradient()
    averages = ReferenceUpdate(theirs, DECAYS)
    averages.optimizer = torch.optim.SGD(averages.parameters, lr=0.0)  # without gradients it does nothing
    ema = EMA(ours, DECAYS)
    rows.append(in_turns("averages of two decays", ema.update, averages, turns, repeat=3))
    print(table(rows))
    top = peak(device, torch.bfloat16 if device == "cuda" else torch.float32, seconds)
    shares = utilisation(rows, counted, top)
    print(f"\nMatrix multiplications: {top / 1e12:.3g} TFLOP/s\n")
    for title, (mine_share, other_share) in shares.items():
        print(f"MFU, {title}: ours {mine_share:.1%}, reference-style {other_share:.1%}")
    write_json(args.json, rows, matmul_flops=top, mfu=shares)


def utilisation(rows: list[Row], counted: dict[str, float], top: float) -> dict[str, tuple[float, float]]:
    """Share of the machine's arithmetic that ours and the other way use; the work counted is that of ours."""
    return {
        title: (work / median(row.ours) / top, work / median(row.theirs) / top)
        for (title, work), row in zip(counted.items(), rows, strict=False)
    }


if __name__ == "__main__":
    main()
