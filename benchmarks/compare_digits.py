"""Compares methods on digits at equal steps and at equal wall-clock: several seeds each, mean and spread.

    python benchmarks/compare_digits.py --work /tmp/compare --steps 400 --seeds 3 --jobs 2

The methods are the commands of docs/methods.md. First the cost of a step is measured, the methods taking turns; a
method's step then counts as so many steps of the cheapest one, and what else the machine does later changes nothing.
Every run is a `vco-run` of its own: it is evaluated when its share of the wall-clock is used up, and again after all
steps. Finished runs are not repeated, interrupted ones go on. Writes the section of docs/results.md between its
marks, and its pictures.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
from compare_pictures import draw_curves, draw_grids
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
METHODS = dict(re.findall(r"^### (.+?)\n\n```sh\nvco-run (.+?)\n```", PAGE.read_text(), re.MULTILINE))
BATCH = 80
ROUNDS = 2
BEGIN, END = "<!-- written by benchmarks/compare_digits.py -->", "<!-- end -->"
PICTURES = """
Samples of the first seed after all steps, a column per class:

![sample grids of every method](results_samples.png)

The pixels' training loss of the first seed. Each process has its own distribution of noise, so compare within one:

![training loss of the pixels of every method](results_curves.png)
"""


@attrs.frozen
class Entry:
    """One method's scores, a Frechet distance per seed."""

    steps_in_time: int
    in_time: list[float]
    all_steps: list[float]


def vco_run(method: str, folder: Path, *options: str) -> None:
    """One `vco-run` of a method in one thread; its output goes into a file beside the folder."""
    # all methods are guided alike
    command = [sys.executable, "-m", "vco.cli", *shlex.split(METHODS[method]), "--guidance.scale", "1.5"]
    command += ["--sample.steps", "10"]
    with folder.with_suffix(".log").open("a") as log:
        subprocess.run(
            [*command, *options, "--output-dir", str(folder)],
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def folder_name(method: str) -> str:
    """A method's name as a part of a path."""
    return re.sub(r"[^A-Za-z]+", "-", method)


def measure_cost(methods: Sequence[str], work: Path) -> dict[str, float]:
    """Seconds per training step of each method: the least of some rounds in which the methods take turns.

    The least, because other work on the machine only ever adds to it.
    """
    path = work / "costs.json"
    if path.exists():
        return json.loads(path.read_text())
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    short = ["--train.steps", "40", "--train.log-every", "5", "--sample.steps", "2", "--eval.samples", "20"]
    bar = tqdm(total=ROUNDS * len(seconds), desc="cost of a step", unit="run")
    for turn in range(ROUNDS):
        for method, times in seconds.items():
            folder = work / f"cost-{folder_name(method)}-{turn}"
            if not (folder / "eval.json").exists():
                vco_run(method, folder, *short)
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            times.append(BATCH / max(line["images_per_second"] for line in lines))
            bar.update()
    costs = {method: min(times) for method, times in seconds.items()}
    path.write_text(json.dumps(costs, indent=1))
    return costs


def evaluated(method: str, seed: int, steps: Sequence[int], work: Path, start: bool) -> list[dict[str, Any]]:
    """The evaluations of one run after each of several numbers of steps, in rising order.

    Raises:
        FileNotFoundError: if one is not there and must not be started.
    """
    folder = work / f"{folder_name(method)}-seed{seed}"
    scores: list[dict[str, Any]] = []
    for count in steps:
        kept = work / f"{folder.name}-step{count}.json"
        if start and not kept.exists():
            often = ["--train.sample-every", str(10 * max(steps)), "--train.checkpoint-every", "100"]
            vco_run(method, folder, "--seed", str(seed), "--train.steps", str(count), *often)
            shutil.copy(folder / "eval.json", kept)
        scores.append(json.loads(kept.read_text()))
    return scores


def table(entries: Mapping[str, Entry], costs: Mapping[str, float]) -> str:
    """The results as Markdown; a method whose mean is within the spreads of the best is called a tie with it."""

    def show(scores: Sequence[float], best: Sequence[float]) -> str:
        text = f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}"
        tie = statistics.mean(scores) - statistics.mean(best) <= statistics.stdev(scores) + statistics.stdev(best)
        return f"**{text}** (best)" if scores is best else f"{text} (tie)" if tie else text

    best_in_time = min((e.in_time for e in entries.values()), key=statistics.mean)
    best_all_steps = min((e.all_steps for e in entries.values()), key=statistics.mean)
    cheapest = min(costs[method] for method in entries)
    lines = [
        "| method | equal steps | equal wall-clock | cost of a step | its steps | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for method, entry in sorted(entries.items(), key=lambda item: statistics.mean(item[1].all_steps)):
        row = [
            f"[{method}](methods.md#{re.sub('[^a-z0-9 -]', '', method.lower()).replace(' ', '-')})",
            show(entry.all_steps, best_all_steps),
            show(entry.in_time, best_in_time),
            f"{costs[method] / cheapest:.2f}",
            str(entry.steps_in_time),
            str(len(entry.all_steps)),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def describe(steps: int, real: float) -> str:
    """What the numbers of the table are."""
    return f"""\
Frechet distance in the features of `digits-cnn` (lower is better) of 1,000 class-balanced samples against the 297
held-out digits; mean ± standard deviation over seeds; EMA weights, guidance scale 1.5, 10 Heun steps. Training
images score {real:.3f}. *Equal steps*: {steps} steps of {BATCH} images. *Equal wall-clock*: the time in which the
cheapest method does {steps} steps, on one CPU thread; *its steps* are what a method does in that time. A *tie* is a
mean within the two standard deviations (added) of the best.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--finished", action="store_true", help="start no run: use the finished ones")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one thread each")
    parser.add_argument(
        "--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="NAME", help="of docs/methods.md"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for results.md and its pictures")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    costs = measure_cost(args.methods, args.work)
    cheapest = min(costs[method] for method in args.methods)
    steps_in_time = {method: round(args.steps * cheapest / costs[method]) for method in args.methods}

    def finished(method: str, seed: int) -> list[dict[str, Any]]:
        try:
            return evaluated(method, seed, [steps_in_time[method], args.steps], args.work, start=not args.finished)
        except FileNotFoundError:
            return []

    pairs = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {pair: pool.submit(finished, *pair) for pair in pairs}
        scores = {pair: job.result() for pair, job in tqdm(jobs.items(), desc="runs", unit="run")}
    entries: dict[str, Entry] = {}
    for method in args.methods:
        runs = [scores[method, seed] for seed in range(args.seeds) if scores[method, seed]]
        values = [[run[k]["value"] for run in runs] for k in (0, -1)]
        entries[method] = Entry(steps_in_time[method], *values)
    folders = {method: args.work / f"{folder_name(method)}-seed0" for method in args.methods}
    draw_grids(folders, args.out / "results_samples.png")
    draw_curves(folders, args.out / "results_curves.png")
    page = args.out / "results.md"
    before, after = (page.read_text() if page.exists() else f"{BEGIN}\n{END}\n").split(BEGIN)
    section = describe(args.steps, scores[pairs[0]][-1]["real_value"]) + table(entries, costs) + PICTURES
    page.write_text(f"{before}{BEGIN}\n\n{section}\n{END}{after.split(END)[1]}")


if __name__ == "__main__":
    main()
