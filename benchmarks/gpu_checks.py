"""The first steps of a training on the GPU, held against the CPU's: losses in fp32 and bf16, and waits of the host.

    python benchmarks/gpu_checks.py --json FILE [--steps 10]

Each method is trained for a few steps on the CPU in fp32, and then on the device in fp32 and in bf16, with the same
seed; the largest difference of their losses is written. `waits` is how often a step makes the host wait for the GPU, as
CUDA's sync-debug mode counts it between two log lines. Without a GPU the CPU is held against itself, and waits are not
counted: a rehearsal.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from vco.storage.files import write_atomic

METHODS: Final = {
    "JiT": "--backbone jit --adapter none --loss none --guidance cfg",
    "V-Co": "--backbone jit-dual --adapter rms --loss hybrid --guidance structural",
    "CoReDi": "--backbone jit-dual --adapter coredi --loss hybrid --guidance structural",
}
LIMITS: Final = {"fp32": 1e-3, "bf16": 5e-2}
"""Largest relative difference of a loss in these steps that is fine: rounding, which training makes larger."""
WAITING: Final = (
    "import sys, torch, warnings; warnings.simplefilter('always'); torch.cuda.set_sync_debug_mode('warn'); "
    "from vco.cli import main_run; sys.exit(main_run(sys.argv[1:]))"
)


def train(options: str, folder: Path, *more: str, gpu: bool, program: str = "") -> str:
    """A short training; returns what it printed.

    Args:
        options: of the method.
        folder: its run folder.
        more: other options.
        gpu: whether it may see the GPU.
        program: what runs in place of `vco-run`.
    """
    fixed = ["--metric", "none", "--train.sample-every", "100000", "--sample.steps", "1", "--output-dir", str(folder)]
    start = ["-c", program] if program else ["-m", "vco.cli"]
    hidden: Mapping[str, str] = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *start, *shlex.split(options), *fixed, *more],
        env=os.environ | hidden, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"a training of {options} ended with status {done.returncode}:\n{done.stderr}")
    return done.stdout + done.stderr


def losses(folder: Path) -> list[float]:
    """The loss of each step."""
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def waits(options: str, folder: Path, steps: int) -> float | None:
    """How often a step makes the host wait; None without a GPU. What begins and ends a training is taken away."""
    if not torch.cuda.is_available():
        return None
    counts: list[int] = []
    for factor in (1, 3):
        more = ["--train.steps", str(factor * steps), "--train.log-every", "100000"]
        said = train(options, folder / str(factor), *more, gpu=True, program=WAITING)
        counts.append(len(re.findall("synchronizing", said)))
    return (counts[1] - counts[0]) / (2 * steps)


def checked(name: str, options: str, folder: Path, steps: int) -> dict[str, Any]:
    """What was found of a method."""
    every = ["--train.steps", str(steps), "--train.log-every", "1"]
    train(options, folder / "cpu", *every, "--mixed-precision", "fp32", gpu=False)
    expected, row = losses(folder / "cpu"), dict[str, Any](method=name, steps=steps)
    for precision, limit in LIMITS.items():
        train(options, folder / precision, *every, "--mixed-precision", precision, gpu=True)
        found = losses(folder / precision)
        worst = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
        row |= {f"{precision}_difference": worst, f"{precision}_fine": worst <= limit}
    return row | {"waits_per_step": waits(options, folder / "waits", steps)}


def main() -> int:
    """Checks every method; exits with 1 if a difference is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="what was found, written after each method")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--options", default="", help="options added to every training, as to make it smaller")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    for name in tqdm(args.methods, desc="methods", unit="method"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(checked(name, f"{METHODS[name]} {args.options}", Path(folder), args.steps))
        write_atomic(args.json, json.dumps({"device": device, "torch": torch.__version__, "rows": rows}, indent=1))
    print(args.json.read_text())
    return 0 if all(row[f"{precision}_fine"] for row in rows for precision in LIMITS) else 1


if __name__ == "__main__":
    sys.exit(main())
