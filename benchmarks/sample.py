"""Guided sampling with Heun's method against reference-style sampling (reference_style.py), at two intervals.

Ours evaluates both branches of guidance in one pass, and the second one only inside of the interval. On a CPU the
network is S with four blocks in float32, on a GPU B in bfloat16. Both begin with the same weights and noise, and their
samples are compared before anything is timed.

    python benchmarks/sample.py [--small] [--compile] [--turns N] [--json FILE]
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from reference_style import ReferenceVelocity, in_reference_style
from turns import in_turns, table, write_json
from vco_parts import Sizes, compile_blocks, make

from vco.api import SolverSetting, Streams
from vco.objective import Objective
from vco.randomness import noise
from vco.sampling.velocity import GuidedVelocity
from vco_plugins.solvers.heun import Heun

INTERVALS = ((0.1, 1.0), (0.4, 0.6))
SCALE = 1.8


@torch.no_grad()
def sampled(
    objective: Objective, sizes: Sizes, steps: int, device: str, interval: tuple[float, float] | None
) -> Streams:
    """Streams from noise to data; with an interval in the published way."""
    labels = torch.arange(sizes.batch, device=device)
    shapes = {name: spec.shape for name, spec in objective.specs.items()}
    state = {name: x.to(device) for name, x in noise(shapes, range(sizes.batch), 0, "noise").items()}
    path = {name: torch.linspace(0, 1, steps + 1) for name in state}
    velocity = ReferenceVelocity(objective, labels, SCALE, interval) if interval else GuidedVelocity(objective, labels)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        return Heun(Heun.Config(), SolverSetting(streams=objective.specs)).integrate(
            velocity, state, path, lambda _: {}
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a network of two blocks for small images")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of both variants")
    parser.add_argument("--turns", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes, steps = {
        "cuda": (Sizes(size="B", depth=None, side=256, batch=128, dinov2=False), 50),
        "cpu": (Sizes(size="S", depth=4, side=128, batch=4, dinov2=False), 10),
    }[device]
    if args.small:
        sizes, steps = Sizes(size="S", depth=2, side=32, batch=2, dinov2=False), 5
    turns = args.turns or (2 if args.small else 4)

    rows = []
    for interval in INTERVALS:
        ours = make(sizes, device, interval).eval()
        theirs = in_reference_style(make(sizes, device, interval)).eval()
        way = partial(sampled, ours, sizes, steps, device, None)
        other = partial(sampled, theirs, sizes, steps, device, interval)
        if device == "cpu":  # bfloat16 lets fifty steps wander
            for name, x in way().items():
                torch.testing.assert_close(x, other()[name], rtol=1e-3, atol=1e-3)
        if args.compile:
            compile_blocks(ours, theirs)
        title = f"Heun in {steps} steps, guided in [{interval[0]}, {interval[1]}], {sizes.title}"
        rows.append(in_turns(title + ", compiled" * args.compile, way, other, turns))
    print(table(rows))
    write_json(args.json, rows)


if __name__ == "__main__":
    main()
