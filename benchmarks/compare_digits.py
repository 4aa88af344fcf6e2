"""Compares methods on digits at equal steps: several seeds each, mean and spread of the Frechet distance.

    python benchmarks/compare_digits.py --work /tmp/compare --steps 600 --seeds 3

The methods are the commands of docs/methods.md. Every run is a `vco-run` of its own; finished ones are not repeated,
interrupted ones go on. Writes docs/results.md.
"""

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
METHODS = dict(re.findall(r"^### (.+?)\n\n```sh\nvco-run (.+?)\n```", PAGE.read_text(), re.MULTILINE))


def run(method: str, seed: int, steps: int, work: Path) -> dict[str, float]:
    """The score of one run, from its eval.json."""
    folder = work / f"{method.replace(' ', '-').replace(',', '')}-seed{seed}"
    every = ["--train.sample-every", str(steps), "--train.checkpoint-every", str(max(1, steps // 4))]
    command = [sys.executable, "-m", "vco.cli", *shlex.split(METHODS[method]), "--seed", str(seed)]
    # all methods are guided alike
    command += ["--train.steps", str(steps), "--guidance.scale", "1.5", *every, "--output-dir", str(folder)]
    with (work / f"{folder.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    score = json.loads((folder / "eval.json").read_text())
    speed = [json.loads(line)["images_per_second"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"fd": score["value"], "real": score["real_value"], "speed": statistics.median(speed)}


def table(scores: dict[str, list[dict[str, float]]], steps: int) -> str:
    """The results as Markdown; methods whose mean is within the spreads of the best are called ties with it."""
    means = {m: statistics.mean(s["fd"] for s in runs) for m, runs in scores.items()}
    spread = {m: statistics.stdev([s["fd"] for s in runs]) if len(runs) > 1 else 0.0 for m, runs in scores.items()}
    best = min(means, key=lambda m: means[m])
    real = next(iter(scores.values()))[0]["real"]
    seeds = len(next(iter(scores.values())))
    lines = [
        "FD (digits-cnn) of 1,000 class-balanced samples against the 297 held-out digits (lower is better), after "
        f"{steps} steps of 80 images; guidance scale 1.5, EMA weights; {seeds} seeds, mean and standard deviation. "
        f"Training images score {real:.3f}.",
        "",
        "| method | FD (digits-cnn) | seeds | |",
        "|---|---|---|---|",
    ]
    for method in sorted(means, key=lambda m: means[m]):
        each = ", ".join(f"{s['fd']:.3f}" for s in scores[method])
        tie = means[method] - means[best] <= spread[method] + spread[best]
        note = "best" if method == best else "tie with the best" if tie else ""
        lines.append(f"| {method} | {means[method]:.3f} ± {spread[method]:.3f} | {each} | {note} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--methods", nargs="*", choices=METHODS, metavar="NAME", help="of docs/methods.md; default: all"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    scores: dict[str, list[dict[str, float]]] = {method: [] for method in args.methods or METHODS}
    for seed in range(args.seeds):
        for method, runs in scores.items():
            runs.append(run(method, seed, args.steps, args.work))
            print(f"{method}, seed {seed}: {runs[-1]['fd']:.3f}", flush=True)
    text = f"# Results\n\nMeasured with `python benchmarks/compare_digits.py --steps {args.steps}`.\n\n"
    args.out.write_text(text + "## Digits, equal steps\n\n" + table(scores, args.steps))


if __name__ == "__main__":
    main()
