"""Trainings on latents from golden weights: the same steps after a resume, and with two processes."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from parity.goldens import LATENT
from parity.latent_goldens import load_latent
from PIL import Image
from tiny_encoders import CASES

from vco.cli import main_run
from vco.commands.importing import import_weights

pytestmark = pytest.mark.slow

STEPS, BATCH, CLASSES = 20, 8, 7
TOLERANCE = 1e-5
"""Relative difference of losses: float32 sums in another order."""
NETWORK = f"--backbone.width 32 --backbone.depth 3 --backbone.heads 2 --data.size 64 --data.classes {CLASSES}"
METHODS = {
    "latent256-repa-xl2": ("sit_forward", "--loss.repa.block 2 --loss.repa.hidden 32"),
    "latent256-redi-xl2": ("redi_forward", "--train.fit-samples 28"),
}


def _files(folder: Path) -> list[str]:
    """Options for 28 pictures of 64x64 pixels, the golden autoencoder, and a tiny encoder with 4x4 tokens."""
    draws = np.random.default_rng(0)
    for number in range(4 * CLASSES):
        place = folder / "images" / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (64, 64, 3), np.uint8)).save(place / f"{number}.png")
    next(case for case in CASES if case.id == "dinov2").save(folder / "encoder")
    return [
        *("--data.root", str(folder / "images"), "--codec.weights", str(LATENT / "vae_tiny")),
        *("--features.weights", str(folder / "encoder"), "--features.resolution", "32"),
    ]


@pytest.mark.parametrize("preset", METHODS)
def test_twenty_steps_are_the_same_after_a_resume_and_with_two_processes(preset: str, tmp_path: Path) -> None:
    name, own = METHODS[preset]
    weights, files = load_latent(name).weights, _files(tmp_path)
    torch.save({"model": dict(weights), "ema": dict(weights)}, tmp_path / "published.pt")
    options = [*NETWORK.split(), *own.split(), *files]
    import_weights(tmp_path / "published.pt", preset, tmp_path / "base", options)
    common = [
        *("--preset", preset, *options, "--metric", "none", "--from", str(tmp_path / "base")),
        *("--mixed-precision", "fp32", "--train.batch-size", str(BATCH), "--train.learning-rate", "1e-3"),
        *("--train.log-every", "1", "--train.sample-every", "100", "--train.checkpoint-every", "7"),
        *("--train.workers", "0", "--sample.steps", "2", "--sample.grid-rows", "1"),
    ]

    def argv(run: str, steps: int) -> list[str]:
        return [*common, "--output-dir", str(tmp_path / run), "--train.steps", str(steps)]

    assert main_run(argv("whole", STEPS)) == 0
    assert main_run(argv("resumed", 10)) == 0
    assert main_run(argv("resumed", STEPS)) == 0
    done = tiny.launch(*argv("two", STEPS))
    assert done.returncode == 0, done.stderr
    expected = tiny.metrics(tmp_path / "whole")
    assert [line["step"] for line in expected] == list(range(1, STEPS + 1))
    assert expected[-1]["loss"] < expected[0]["loss"]
    terms = [name for name in ("loss", "image", "features", "repa") if name in expected[0]]
    assert len(terms) == 3
    for run in ("resumed", "two"):
        lines = tiny.metrics(tmp_path / run)
        for term in terms:
            found = [line[term] for line in lines]
            assert found == pytest.approx([line[term] for line in expected], rel=TOLERANCE), (run, term)
