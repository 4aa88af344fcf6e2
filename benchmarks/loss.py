"""The hybrid and the drifting loss, each against a loop over the classes of the batch.

The loop is how the published code computes such losses: classes are read to the host, and each is one small problem.
Its mathematics is that of docs/methods.md; its numbers are compared with ours before anything is timed.

    python benchmarks/loss.py [--turns 15] [--json FILE]
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from turns import Row, in_turns, table, write_json

from vco_plugins.losses.drifting import drifting_loss
from vco_plugins.losses.hybrid import hybrid_loss

WIDTH = 768
"""Width of the encoder's vectors."""
SHAPES = ((128, 1), (128, 16), (1024, 8))
"""Rows and classes of a batch."""
TAU_GATE, TAU_REPULSION = 10.0, 0.2
TEMPERATURES = (0.2, 0.05, 0.02)


def hybrid_by_class(generated: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """The mean of the hybrid loss, class after class."""
    losses: list[Tensor] = []
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).flatten()
        g, r = F.normalize(generated[rows], dim=-1), F.normalize(real[rows], dim=-1)
        with torch.no_grad():
            s = torch.exp(-(g - r).square().sum(-1, keepdim=True) / TAU_GATE)
            k = torch.exp(-torch.cdist(g, g).square() / TAU_REPULSION)
            k = k.masked_fill(torch.eye(len(g), dtype=torch.bool, device=g.device), 0.0)
            k = k / k.sum(1, keepdim=True).clamp_min(1e-8)
            target = g + s * (r - g) - (1 - s) * (k @ g - g)
        losses.append((g - target).square().mean())
    return torch.stack(losses).mean()


def drifting_by_class(generated: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """The mean of the drifting loss, class after class, its sizes taken over the batch."""
    classes = [torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()]
    with torch.no_grad():
        distances = [torch.cdist(generated[c], torch.cat([generated[c], real[c]])).clamp_min(1e-4) for c in classes]
        typical = torch.cat([distance.flatten() for distance in distances]).mean()
        scale = typical / generated.shape[1] ** 0.5
        fields = [torch.zeros_like(generated[c]) for c in classes]
        for temperature in TEMPERATURES:
            forces: list[Tensor] = []
            for c, distance in zip(classes, distances, strict=True):
                size, y = len(c), torch.cat([generated[c], real[c]])
                alone = 100.0 * torch.eye(size, len(y), device=y.device)
                logits = -(distance / typical + alone) / temperature
                affinity = (logits.softmax(1) * logits.softmax(0)).clamp_min(1e-6).sqrt()
                push, pull = affinity[:, :size], affinity[:, size:]
                to_real = pull * push.sum(1, keepdim=True)
                to_others = push * pull.sum(1, keepdim=True)
                forces.append((to_real @ real[c] - to_others @ generated[c]) / scale)
            squares = torch.cat([force.flatten() for force in forces]).square().mean()
            fields = [field + force / squares.sqrt() for field, force in zip(fields, forces, strict=True)]
    losses = [
        (generated[c] / scale - (generated[c].detach() / scale + field)).square().mean(1)
        for c, field in zip(classes, fields, strict=True)
    ]
    return torch.cat(losses).mean()


def hybrid_at_once(generated: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    return hybrid_loss(generated, real, labels, tau_gate=TAU_GATE, tau_repulsion=TAU_REPULSION).mean()


def drifting_at_once(generated: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    same = labels[:, None] == labels
    weights = same.to(generated.dtype)
    loss, _ = drifting_loss(generated, real, groups=labels, positive=same, weights=weights, temperatures=TEMPERATURES)
    return loss.mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    for name, ours, theirs in (
        ("hybrid", hybrid_at_once, hybrid_by_class),
        ("drifting", drifting_at_once, drifting_by_class),
    ):
        for count, classes in SHAPES:
            draws = torch.Generator().manual_seed(0)
            generated = torch.randn(count, WIDTH, generator=draws).to(device).requires_grad_()
            real = torch.randn(count, WIDTH, generator=draws).to(device)
            labels = (torch.arange(count) % classes).to(device)
            one, other = ours(generated, real, labels), theirs(generated, real, labels)
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

            def step(loss: partial[Tensor], generated: Tensor = generated) -> None:
                generated.grad = None
                loss().backward()

            ways = [partial(step, partial(way, generated, real, labels)) for way in (ours, theirs)]
            title = f"{name}, {count:,} x {WIDTH}, {classes} class{'es' if classes > 1 else ''}"
            rows.append(in_turns(title, *ways, turns=args.turns, repeat=3))
    print(table(rows, "loop over classes"))
    write_json(args.json, rows)


if __name__ == "__main__":
    main()
