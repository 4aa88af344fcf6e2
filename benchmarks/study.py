"""Trains and measures the methods of study.yaml as a study that can be stopped and continued on any machine.

    python benchmarks/study.py --budget 60m [--datasets clothing32] [--methods JiT REPA] [--jobs 2]
    python benchmarks/study.py --datasets images64 --images FOLDER
    python benchmarks/study.py --report

Every method is trained with `vco-run` under the same settings and seeds. `vco eval sweep` finds its own best guidance
scale on sampling seeds of their own; `vco eval` scores it at this scale and unguided, in two feature spaces of which it
is aligned to neither, with labels drawn as often as in the data, after all steps and after as many as plain JiT's FLOPs
and time allow. Results are added to --results (JSON lines) as they come; what is there is not done again, and a run
that was stopped goes on. --report writes the tables of docs/study.md and its pictures from them.
"""

import argparse
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from study_plan import REFERENCE, SAMPLING_SEEDS, SWEEP_SEEDS, Run, datasets, read_config, run_of, runs
from study_report import write_report
from study_work import VCO, OutOfTimeError, Study
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
PACES = 3
"""How often the step of a method and that of plain JiT are timed in turn."""


def train(study: Study, run: Run) -> None:
    """Trains a run, and counts what a step costs."""
    study.command([sys.executable, "-m", "vco.cli", *run.training], Path(f"{run.folder}.log"))
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    cost = json.loads((run.folder / "cost.json").read_text())
    study.add(
        run,
        "train",
        {
            "steps": run.data.steps,
            "flops_per_image": cost["training_flops_per_image"],
            "parameters": cost["parameters"],
            "loss": [[line["step"], line["image"]] for line in lines],
        },
    )


def pace(study: Study, run: Run, reference: Run) -> None:
    """Measures how long a step takes beside one of plain JiT, in turns, so that a busy machine slows both alike."""
    if run.method == reference.method:
        study.add(run, "pace", {"over_reference": 1.0})
        return
    seconds: dict[str, list[float]] = {}
    for _ in range(PACES):
        for one in (run, reference):
            path = one.folder / "study-pace.json"
            study.vco(run, "profile", str(one.folder), "--steps", "10", "--json", str(path))
            found = json.loads(path.read_text())
            waits = found["host_waits"] if found["device"] == "cpu" else 0.0  # for the processor, which others use too
            seconds.setdefault(one.method, []).append(found["seconds"] - waits)
    ratios = [mine / base for mine, base in zip(seconds[run.method], seconds[reference.method], strict=True)]
    study.add(run, "pace", {"over_reference": statistics.median(ratios), "turns": ratios, "seconds": seconds})


def sweep(study: Study, run: Run) -> None:
    """Finds the method's own best scale, with its first training seed; tries larger ones while the largest is best."""
    path = run.folder / "study-sweep.jsonl"
    scales, beyond = list(run.data.scales), list(run.data.beyond)
    while True:
        study.vco(
            run, "eval", "sweep", str(run.folder), "--scales", ",".join(f"{scale:g}" for scale in scales),
            "--sweep-seeds", ",".join(map(str, SWEEP_SEEDS)), "--seeds", "0",
            "--sweep-num", str(run.data.sweep_samples), "--num", str(run.data.samples), "--evals", str(path),
            "--no-baseline", *run.metrics,
        )  # fmt: skip
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        tried = [[float(line["sweep"]["scale"]), line["seed"], line["value"]] for line in lines if "sweep" in line]
        # not the line that the sweep reports: one that was stopped has reported scales of later rounds as well
        best = min(scales, key=lambda scale: statistics.mean(value for one, _, value in tried if one == scale))
        if best != scales[-1] or not beyond:
            break
        scales.append(beyond.pop(0))
    study.add(run, "sweep", {"tried": tried, "scale": best})


def score(study: Study, run: Run, kind: str, scale: float, steps: int) -> None:
    """Scores a run at a scale after a number of steps, with every sampling seed; what is the same is not done again."""
    for other in ("unguided", "best", "flops", "time"):
        same = study.of(run, other)
        if same and (same["scale"], same["steps"]) == (scale, steps):
            study.add(run, kind, {key: same[key] for key in ("steps", "scale", "values", "real", "protocol")})
            return
    path = run.folder / f"study-{kind}.jsonl"
    path.unlink(missing_ok=True)  # of a scoring that was stopped
    study.vco(
        run, "eval", str(run.folder), "--step", str(steps), "--scale", f"{scale:g}", "--num", str(run.data.samples),
        "--seeds", ",".join(map(str, SAMPLING_SEEDS)), "--evals", str(path), *run.metrics,
    )  # fmt: skip
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    values = {one["metric"]: [s["value"] for line in lines for s in line["scores"] if s["metric"] == one["metric"]]
              for one in lines[0]["scores"]}  # fmt: skip
    real = {one["metric"]: one["real_value"] for one in lines[0]["scores"]}
    protocol = {one["metric"]: one["protocol_hash"] for one in lines[0]["scores"]}
    study.add(run, kind, {"steps": steps, "scale": scale, "values": values, "real": real, "protocol": protocol})


def neighbours(study: Study, run: Run, scale: float) -> None:
    """Asks whether samples are nearer to training images than held-out images are, and draws a few of them."""
    picture, images = run.folder / "neighbours.png", run.folder / "study-samples.npz"
    said = study.vco(
        run, "eval", str(run.folder), "--neighbours", str(min(250, run.data.samples)), "--scale", f"{scale:g}",
        "--out", str(picture), *run.metrics,
    )  # fmt: skip
    found = re.search(r"^(\d+) of (\d+) samples are nearer than", said, re.MULTILINE)
    assert found, "`vco eval --neighbours` says how many"
    images.unlink(missing_ok=True)
    study.vco(run, "sample", str(run.folder), "--num", "30", "--scale", f"{scale:g}", "--out", str(images))
    study.add(run, "neighbours", {"near": int(found[1]), "of": int(found[2])})


def pieces(study: Study, run: Run) -> Sequence[tuple[str, Callable[[], None]]]:
    """What is to be done for a run, in order; what needs results that are not there yet is left for the next pass."""
    first = run_of(run.data, run.method, 0, run.work)  # its best scale and its pace count for all seeds
    reference = run_of(run.data, REFERENCE, 0, run.work)  # its cost is the budget
    todo: list[tuple[str, Callable[[], None]]] = [("train", lambda: train(study, run))]
    budget = study.of(reference, "train")
    if run == first and budget and reference.folder.exists():
        todo.append(("pace", lambda: pace(study, run, reference)))
    todo += [("sweep", lambda: sweep(study, run))] if run == first else []
    todo.append(("unguided", lambda: score(study, run, "unguided", 1.0, run.data.steps)))
    if (found := study.of(first, "sweep")) is None:
        return todo
    scale = found["scale"]
    todo.append(("best", lambda: score(study, run, "best", scale, run.data.steps)))
    mine, paced = study.of(run, "train"), study.of(first, "pace")
    costs: dict[str, float] = {}
    if mine and budget:
        costs["flops"] = mine["flops_per_image"] / budget["flops_per_image"]
    if paced:
        costs["time"] = paced["over_reference"]
    for kind, cost in costs.items():
        steps = int(run.data.steps * min(1.0, 1 / cost)) // run.data.point * run.data.point
        steps = max(run.data.point, steps)
        todo.append((kind, lambda kind=kind, steps=steps: score(study, run, kind, scale, steps)))
    todo += [("neighbours", lambda: neighbours(study, run, scale))] if run == first else []
    return todo


def work_on(study: Study, run: Run, say: Callable[[str], None]) -> bool:
    """Does what is to be done for a run; a failure is said and stops nothing else.

    Returns:
        Whether all went well.
    """
    try:
        while left := [piece for piece in pieces(study, run) if study.of(run, piece[0]) is None]:
            kind, act = left[0]
            if kind != "train" and not run.folder.exists():
                raise RuntimeError(f"the run in {run.folder} was trained on another machine; score it there")
            act()
    except (RuntimeError, OSError) as error:
        say(f"{run.data.name}, {run.method}, seed {run.seed}: {error}")
        return False
    return True


def work_on_all(study: Study, todo: Sequence[Run], jobs: int) -> bool:
    """Trains the networks that runs need, and then works on these, several at a time; whether all went well."""
    for run in {run.data.name: run for run in todo}.values():
        for folder, options in run.networks.items():
            if not (folder / "training.json").exists():
                study.command([sys.executable, "-c", VCO, "train-encoder", *options], Path(f"{folder}.log"))
    fine = list(todo)
    for _ in range(2):  # the second pass does what had to wait for plain JiT
        with ThreadPoolExecutor(jobs) as pool:
            done = [pool.submit(work_on, study, run, tqdm.write) for run in fine]
            fine = [run for run, job in zip(fine, tqdm(done, desc="runs", unit="run"), strict=True) if job.result()]
    return len(fine) == len(todo)


def seconds(text: str) -> float:
    """A time, as in 90s, 60m or 8h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no time, as in 90s, 60m or 8h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def main() -> int:
    known, methods = read_config()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=seconds, help="time after which it stops, as in 60m; else all is done")
    parser.add_argument("--datasets", nargs="+", choices=list(known), default=["digits", "clothing32"], metavar="NAME")
    parser.add_argument("--images", default="", metavar="FOLDER", help="images with classes, for the data set images64")
    parser.add_argument("--methods", nargs="+", choices=list(methods), default=list(methods), metavar="NAME")
    parser.add_argument("--seeds", type=positive, default=2, help="training seeds [2]")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time, of one thread each [1]")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="folder for the runs [runs/study]")
    parser.add_argument("--results", type=Path, help="what was found [study.jsonl; with --small in the folder --work]")
    parser.add_argument("--small", action="store_true", help="rehearse everything with tiny networks")
    parser.add_argument("--report", action="store_true", help="start nothing: write the page from what was found")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "study.md", help="page of --report")
    args = parser.parse_args()
    results = args.results or (args.work / "results.jsonl" if args.small else HERE / "study.jsonl")
    if "images64" in args.datasets and not args.images:
        parser.error("the data set images64 is a folder of images with classes: name it with --images FOLDER")
    if args.images and not Path(args.images).is_dir():
        parser.error(f"--images {args.images}: there is no such folder")
    for option, path in (("--results", results), ("--page", args.page)):
        if not path.absolute().parent.is_dir() and path.absolute().parent != args.work.absolute():
            parser.error(f"{option} {path}: make the folder {path.parent} first")
    chosen = datasets(args.datasets, small=args.small, images=args.images)
    todo = list(runs(chosen, args.methods, args.seeds, args.work))
    study = Study(results, math.inf if args.budget is None else time.monotonic() + args.budget)
    if args.report:
        if not any(line["data"] in args.datasets for line in study.found):
            parser.error(
                f"{results} has no results of {', '.join(args.datasets)}; run the study without --report first"
            )
        write_report(study.found, args.datasets, args.work, args.page)
        return 0
    args.work.mkdir(parents=True, exist_ok=True)
    try:
        with study.heeding_signals():
            return 0 if work_on_all(study, todo, args.jobs) else 1
    except OutOfTimeError:
        print(f"{'stopped' if study.stopped else 'the time is up'}; the same command goes on")
        return 128 + study.stopped if study.stopped else 0
    except RuntimeError as error:  # without the networks to align to and to score with, nothing can be done
        print(f"study.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
