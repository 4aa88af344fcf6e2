"""Compares methods on digits: every method unguided, and at the best guidance scale of one small sweep.

    python benchmarks/compare_digits.py --work /tmp/compare --seeds 3 --jobs 2
    python benchmarks/compare_digits.py --work /tmp/compare --on latents

The methods are the commands of docs/methods.md. A run is trained once with `vco-run` and then sampled and evaluated at
each scale of the sweep. One scale for all methods would be unfair: a method whose null branch lacks more (V-Co's hides
label and features) is guided harder by the same number. With `--wall-clock`, methods are also compared at equal
wall-clock: the cost of a step is measured first, the methods taking turns, and each method is evaluated after the
number of steps that the cheapest one's time allows.

Methods on pixels and on latents are compared apart (`--on`): each kind has its section of docs/results.md, which the
script writes between its marks, and its pictures. Finished evaluations are not repeated, and interrupted runs go on.
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
UNGUIDED = "1.0"
"""The scale at which nothing is guided."""
END = "<!-- end -->"


@attrs.frozen(kw_only=True)
class Kind:
    """What one comparison is over: methods on pixels, or on latents."""

    steps: int
    """Training steps of a method whose command says none."""
    scales: Sequence[str]
    """The sweep, rising from `UNGUIDED`."""
    mark: str
    """The line of docs/results.md after which its section begins."""
    pictures: str
    """How the names of its pictures begin."""
    shared: str = ""
    """The end that the names of all its methods have, which is left out where they stand side by side."""


KINDS = {
    "pixels": Kind(
        steps=400,
        scales=(UNGUIDED, "1.2", "1.5"),
        mark="<!-- written by benchmarks/compare_digits.py -->",
        pictures="results",
    ),
    "latents": Kind(
        steps=600,
        scales=(UNGUIDED, "1.2", "1.5", "2.0"),
        mark="<!-- written by benchmarks/compare_digits.py --on latents -->",
        pictures="results_latents",
        shared=", on the latents of digits",
    ),
}


@attrs.frozen
class Entry:
    """One method's scores: scale -> Frechet distance of each seed."""

    steps: int
    scores: Mapping[str, Sequence[float]]

    @property
    def best_scale(self) -> str:
        """The scale with the lowest mean."""
        return min(self.scores, key=lambda scale: statistics.mean(self.scores[scale]))

    @property
    def best(self) -> Sequence[float]:
        """The scores at the best scale."""
        return self.scores[self.best_scale]

    @property
    def unguided(self) -> Sequence[float]:
        """The scores at scale 1."""
        return self.scores[UNGUIDED]


def kind_of(method: str) -> str:
    """Whether a method is on pixels or on latents."""
    return "latents" if "--preset digits-latent" in METHODS[method] else "pixels"


def steps_of(method: str) -> int:
    """Training steps of a method: those of its command, if it says any."""
    said = re.search(r"--train\.steps (\d+)", METHODS[method])
    return int(said.group(1)) if said else KINDS[kind_of(method)].steps


def vco_run(method: str, folder: Path, *options: str) -> None:
    """One `vco-run` of a method in one thread; its output goes into a file beside the folder."""
    command = [sys.executable, "-m", "vco.cli", *shlex.split(METHODS[method]), "--sample.steps", "10"]
    with Path(f"{folder}.log").open("a") as log:
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


def measure_cost(methods: Sequence[str], work: Path, rounds: int = 2) -> dict[str, float]:
    """Seconds per training step of each method: the least of some rounds in which the methods take turns.

    The least, because other work on the machine only ever adds to it.
    """
    path = work / "costs.json"
    if path.exists():
        return json.loads(path.read_text())
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    short = ["--train.steps", "40", "--train.log-every", "5", "--metric", "none", "--train.sample-every", "1000"]
    bar = tqdm(total=rounds * len(seconds), desc="cost of a step", unit="run")
    for turn in range(rounds):
        for method, times in seconds.items():
            folder = work / f"cost-{folder_name(method)}-{turn}"
            if not (folder / "report.html").exists():
                vco_run(method, folder, *short)
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            times.append(BATCH / max(line["images_per_second"] for line in lines))
            bar.update()
    costs = {method: min(times) for method, times in seconds.items()}
    path.write_text(json.dumps(costs, indent=1))
    return costs


def evaluated(method: str, seed: int, steps: Sequence[int], work: Path, start: bool) -> list[dict[str, Any]]:
    """The evaluations of one run after each of several numbers of steps, in rising order: scale -> eval.json.

    Raises:
        FileNotFoundError: if one is not there and must not be started.
    """
    folder = work / f"{folder_name(method)}-seed{seed}"
    found: list[dict[str, Any]] = []
    for count in steps:
        scores: dict[str, Any] = {}
        files = {
            scale: work / f"{folder.name}-step{count}-scale{scale}.json"
            for scale in reversed(KINDS[kind_of(method)].scales)
        }
        for scale, kept in files.items():
            if start and not kept.exists():
                options = ["--seed", str(seed), "--train.steps", str(count), "--guidance.scale", scale]
                options += ["--train.sample-every", "100000", "--train.checkpoint-every", "100"]
                options += ["--refresh"] if any(file.exists() for file in files.values()) else []
                vco_run(method, folder, *options)
                shutil.copy(max((folder / "samples").glob("step-*.png")), kept.with_suffix(".png"))
                shutil.copy(folder / "eval.json", kept)
            scores[scale] = json.loads(kept.read_text())
        found.append(scores)
    return found


def spread(scores: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 where there is one seed."""
    return statistics.stdev(scores) if len(scores) > 1 else 0.0


def table(entries: Mapping[str, Entry], in_time: Mapping[str, Entry], costs: Mapping[str, float]) -> str:
    """The results as Markdown, the best first."""

    def show(scores: Sequence[float]) -> str:
        deviation = f" ± {spread(scores):.3f}" if len(scores) > 1 else ""
        return f"{statistics.mean(scores):.3f}{deviation}"

    best = min((entry.best for entry in entries.values()), key=statistics.mean)
    head = ["method", "unguided", "best of the sweep", "its scale", "steps", "seeds"]
    head += ["at equal wall-clock", "its steps", "cost of a step"] if in_time else []
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, entry in sorted(entries.items(), key=lambda item: statistics.mean(item[1].best)):
        tie = statistics.mean(entry.best) - statistics.mean(best) <= spread(entry.best) + spread(best)
        label = " (best)" if entry.best is best else " (tie)" if tie and len(best) > 1 else ""
        place = re.sub("[^a-z0-9 -]", "", method.lower()).replace(" ", "-")
        row = [
            f"[{method.removesuffix(KINDS[kind_of(method)].shared)}](methods.md#{place})",
            show(entry.unguided),
            show(entry.best) + label,
            entry.best_scale,
            str(entry.steps),
            str(len(entry.best)),
        ]
        if in_time:
            cheapest = min(costs.values())
            row += [show(in_time[method].best), str(in_time[method].steps), f"{costs[method] / cheapest:.2f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def describe(kind: Kind, real: float, seeds: int, wall_clock: bool) -> str:
    """What the numbers of the table are."""
    ties = " A *tie* is a mean within the two standard deviations (added) of the best." if seeds > 1 else ""
    time = (
        f" *Equal wall-clock*: the time in which the cheapest method does {kind.steps} steps, on one CPU thread."
        if wall_clock
        else ""
    )
    mean = "; mean ± standard deviation over seeds" if seeds > 1 else ""
    return f"""\
Frechet distance in the features of `digits-cnn` (lower is better) of 1,000 class-balanced samples against the 297
held-out digits, after steps of {BATCH} images, with EMA weights and 10 Heun steps{mean}. Training images score
{real:.3f}. *Unguided* is scale 1; the sweep is {", ".join(kind.scales)} for every method.{ties}{time}

"""


def show_pictures(name: str) -> str:
    """The part of a section that shows its pictures."""
    return f"""
Unguided samples of the first seed after all steps, a column per class:

![sample grids of every method]({name}_samples.png)

The image stream's training loss of the first seed, where a method has one. Each process has its own distribution of
noise, so compare within one:

![training loss of the image stream of every method]({name}_curves.png)
"""


def write_section(page: Path, mark: str, section: str) -> None:
    """Puts a section between its mark and the next end, and leaves the rest of the page as it is."""
    content = page.read_text() if page.exists() else ""
    before, found, after = content.partition(mark)
    rest = after.partition(END)[2] if found else "\n"
    page.write_text(f"{before}{mark}\n\n{section}\n{END}{rest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--on", choices=KINDS, default="pixels", help="methods on pixels or on latents")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--wall-clock", action="store_true", help="also compare at equal wall-clock")
    parser.add_argument("--finished", action="store_true", help="start no run: use the finished ones")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one thread each")
    parser.add_argument("--methods", nargs="*", choices=METHODS, metavar="NAME", help="of docs/methods.md")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for results.md and its pictures")
    args = parser.parse_args()
    kind = KINDS[args.on]
    args.methods = args.methods or [method for method in METHODS if kind_of(method) == args.on]
    if other := [method for method in args.methods if kind_of(method) != args.on]:
        parser.error(f"{other[0]} is not a method on {args.on}; say --on {kind_of(other[0])}, or leave it out")
    args.work.mkdir(parents=True, exist_ok=True)
    costs = measure_cost(args.methods, args.work) if args.wall_clock else {}
    in_time = {m: round(kind.steps * min(costs.values()) / costs[m]) for m in args.methods} if costs else {}

    def finished(method: str, seed: int) -> list[dict[str, Any]]:
        steps = [*([in_time[method]] if in_time else []), steps_of(method)]
        try:
            return evaluated(method, seed, steps, args.work, start=not args.finished)
        except FileNotFoundError:
            return []

    pairs = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {pair: pool.submit(finished, *pair) for pair in pairs}
        found = {pair: job.result() for pair, job in tqdm(jobs.items(), desc="runs", unit="run")}

    def entry(method: str, place: int, steps: int) -> Entry | None:
        runs = [found[method, seed][place] for seed in range(args.seeds) if found[method, seed]]
        return Entry(steps, {scale: [run[scale]["value"] for run in runs] for scale in kind.scales}) if runs else None

    entries = {m: e for m in args.methods if (e := entry(m, -1, steps_of(m)))}
    timed = {m: e for m in entries if in_time and (e := entry(m, 0, in_time[m]))}
    folders = {method.removesuffix(kind.shared): args.work / f"{folder_name(method)}-seed0" for method in entries}
    grids = [
        Path(f"{folder}-step{entries[method].steps}-scale{UNGUIDED}.png")
        for method, folder in zip(entries, folders.values(), strict=True)
    ]
    draw_grids(dict(zip(folders, grids, strict=True)), args.out / f"{kind.pictures}_samples.png")
    draw_curves(folders, args.out / f"{kind.pictures}_curves.png")
    real = next(run for run in found.values() if run)[-1][UNGUIDED]["real_value"]
    seeds = max(len(e.best) for e in entries.values())
    section = describe(kind, real, seeds, bool(timed)) + table(entries, timed, costs)
    write_section(args.out / "results.md", kind.mark, section + show_pictures(kind.pictures))


if __name__ == "__main__":
    main()
