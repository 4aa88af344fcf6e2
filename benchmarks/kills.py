"""Kills trainings and lets them go on, again and again; then compares them, bit by bit, with one that nobody disturbed.

A run is the default one at a tiny size. It is killed (SIGKILL) at a random moment: half of the times in a save, or so,
which a thread writes while training goes on. Where two processes train, one of them or both are killed. Every start
goes on from the newest checkpoint on disk, or the kill has lost one. At its end a run's logged losses, weights,
averages and optimizer state must be those of an undisturbed run, to the last bit.

With --signals, runs of two processes under torchrun are asked to stop instead: one process, all of them with the
launcher, or the launcher alone, by SIGTERM, SIGINT and SIGUSR1. Every step that was logged must have been saved.

What is done is noted in FILE after each run; the same command goes on from there.

    python benchmarks/kills.py --json kills.json [--kills 240] [--per-run 10] [--modes one readers ddp fsdp]
    python benchmarks/kills.py --json signals.json --signals [--each 10]
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from tqdm import tqdm
from trained_runs import Run, begin, gone, launch, options, warm_up

from vco.storage import checkpoint
from vco.storage.files import write_atomic

MODES: Final[Mapping[str, tuple[int, tuple[str, ...]]]] = {
    "one": (1, ()),
    "readers": (1, ("--train.workers", "2")),
    "ddp": (2, ()),
    "fsdp": (2, ("--train.sharding", "fsdp")),
}
"""Name -> number of processes, and options."""
STEPS: Final = 240
EVERY: Final = 4
"""Steps between checkpoints of runs that are killed."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
TARGETS: Final = ("one process", "all and the launcher", "the launcher")
PATIENCE: Final = 120.0
"""Seconds after which something that should happen has not."""


def steps_saved(folder: Path) -> list[int]:
    """The steps of the checkpoints that are there, whole by the promise that they appear by a rename."""
    return sorted(int(path.name[5:]) for path in folder.glob("checkpoints/step-*"))


def is_saving(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    with contextlib.suppress(OSError):
        return any(name.endswith(".tmp") for name in os.listdir(folder / "checkpoints"))
    return False


def logged(folder: Path) -> dict[int, str]:
    """Step -> its loss, every bit of it."""
    lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    found: dict[int, str] = {}
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line of a run that was killed may be cut
            record = json.loads(line)
            found[record["step"]] = record["loss"].hex()
    return found


def tensors(folder: Path, step: int) -> dict[str, Tensor]:
    """Weights, averages and optimizer state of a checkpoint, every byte of which is checked."""
    saved = checkpoint.load(folder / "checkpoints" / f"step-{step:08d}").tensors
    return {f"{stem}/{name}": value for stem, part in saved.items() for name, value in part.items()}


def differences(folder: Path, whole: Path, steps: int) -> list[str]:
    """In what a run differs from one that was left alone; nothing if it is the same to the bit."""
    found: list[str] = []
    one, other = logged(folder), logged(whole)
    if sorted(one) != list(range(1, steps + 1)):
        found.append(f"{len(one)} logged steps of {steps}")
    found += [f"loss of step {step}" for step in other if one.get(step) != other[step]][:3]
    mine, theirs = tensors(folder, steps), tensors(whole, steps)
    if mine.keys() != theirs.keys():
        found.append("names of tensors")
    return found + [name for name in theirs if not torch.equal(mine.get(name, torch.empty(0)), theirs[name])][:3]


def undisturbed(work: Path, mode: str, steps: int) -> Path:
    """A run of a mode that nobody kills."""
    folder = work / f"whole-{mode}-{steps}"
    if steps not in steps_saved(folder):
        count, more = MODES[mode]
        run = begin(folder, count, options(folder, steps, *more, every=10 * steps))
        run.wait(10 * PATIENCE)
    return folder


# ---------------------------------------------------------------------------------------------------------------- kills


def kill_once(run: Run, folder: Path, draws: random.Random, sessions: int, newest: int) -> dict[str, Any] | None:
    """Kills a run at a random moment; returns what was done, or None if it had ended before.

    Args:
        run: its processes.
        folder: its folder.
        draws: decides.
        sessions: how often it was started before.
        newest: the step of its newest checkpoint when it was started now.
    """
    starting, in_save = draws.random() < 0.1, draws.random() < 0.6
    until = time.monotonic() + PATIENCE
    while (
        run.alive() and not starting and not (came_from(folder)[sessions:] and max(logged(folder), default=0) > newest)
    ):
        if time.monotonic() > until:
            raise TimeoutError(f"{folder}: no step in {PATIENCE:.0f} s")
        time.sleep(0.005)
    if in_save and not starting:
        for _ in range(draws.randrange(1, 4)):  # which save
            while run.alive() and is_saving(folder):
                time.sleep(0.0002)
            while run.alive() and not is_saving(folder):
                time.sleep(0.0002)
        time.sleep(draws.random() * 0.004)
    else:
        time.sleep(draws.random() * 0.6)
    victims = list(range(len(run.pids)))
    if len(victims) > 1 and draws.random() < 0.5:
        victims = [draws.choice(victims)]
    if not run.alive():
        return None
    run.kill(victims)
    since, saving = time.monotonic(), is_saving(folder)
    run.wait(PATIENCE)
    took = time.monotonic() - since
    return {"saving": saving, "starting": starting, "victims": len(victims), "gone": took, "left": run.left(10.0)}


def killed_run(work: Path, mode: str, number: int, per_run: int, bar: "tqdm[Any]") -> dict[str, Any]:
    """Trains one run that is killed many times; returns what happened."""
    count, more = MODES[mode]
    folder = work / f"{mode}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    draws = random.Random(f"{mode} {number}")
    kills: list[dict[str, Any]] = []
    lost, ended = 0, False
    while not ended:
        newest, sessions = max(steps_saved(folder), default=0), len(came_from(folder))
        run = begin(folder, count, options(folder, STEPS, *more, every=EVERY))
        done = kill_once(run, folder, draws, sessions, newest) if len(kills) < per_run else None
        if done is not None:
            kills.append(done)
            bar.update()
        else:
            run.wait(10 * PATIENCE)
            ended = True
            if STEPS not in steps_saved(folder):
                raise RuntimeError(f"{folder} has ended early:\n{folder.with_suffix('.log').read_text()[-2000:]}")
        lost += any(step != newest for step in came_from(folder)[sessions:])
    wrong = differences(folder, undisturbed(work, mode, STEPS), STEPS)
    if not wrong:
        shutil.rmtree(folder)
    return {"mode": mode, "number": number, "kills": kills, "lost": lost, "wrong": wrong}


def came_from(folder: Path) -> list[int]:
    """The step from which each session of a run went on."""
    with contextlib.suppress(OSError):
        return [json.loads(line)["step"] for line in (folder / "sessions.jsonl").read_text().splitlines()]
    return []


def kill_many(work: Path, args: argparse.Namespace) -> str:
    """All runs that are killed; returns a table."""
    file, done = args.json, load(args.json)
    wanted = [(mode, n) for n in range(-(-args.kills // (args.per_run * len(args.modes)))) for mode in args.modes]
    known = {(entry["mode"], entry["number"]) for entry in done}
    with tqdm(total=args.per_run * len(wanted), initial=sum(len(entry["kills"]) for entry in done), unit="kill") as bar:
        for mode, number in wanted:
            if (mode, number) not in known:
                done.append(killed_run(work, mode, number, args.per_run, bar))
                write_atomic(file, json.dumps(done, indent=1))
    titles = "runs | kills | inside a save | while starting | of one of two | checkpoints lost | runs that differ"
    rows = [f"| | {titles} | left over |", "|---" * 9 + "|"]
    for mode in (*args.modes, "all"):
        mine = [entry for entry in done if mode in (entry["mode"], "all")]
        kills = [kill | {"of": MODES[entry["mode"]][0]} for entry in mine for kill in entry["kills"]]
        cells = [
            len(mine),
            len(kills),
            sum(kill["saving"] for kill in kills),
            sum(kill["starting"] for kill in kills),
            sum(kill["victims"] < kill["of"] for kill in kills),
            sum(entry["lost"] for entry in mine),
            sum(bool(entry["wrong"]) for entry in mine),
            sum(kill["left"] for kill in kills),
        ]
        rows.append(f"| {mode} | {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


# -------------------------------------------------------------------------------------------------------------- signals


def signal_once(folder: Path, number: signal.Signals, target: str, draws: random.Random) -> dict[str, Any]:
    """Asks a run to stop at a random moment; returns what was saved, and how long that took."""
    before = max(steps_saved(folder), default=0)
    launcher, ranks = launch(folder, 2, options(folder, 100_000, every=100_000))
    until = time.monotonic() + PATIENCE
    while max(logged(folder), default=0) < before + 2:
        if launcher.poll() is not None or time.monotonic() > until:
            raise TimeoutError(f"{folder}: no step: {launcher.communicate()[1][-2000:]}")
        time.sleep(0.01)
    time.sleep(0.5 * draws.random())
    pids = ranks()
    chosen = {
        "one process": [draws.choice(pids)],
        "all and the launcher": [*pids, launcher.pid],
        "the launcher": [launcher.pid],
    }[target]
    step, since = max(logged(folder)), time.monotonic()
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    launcher.communicate(timeout=PATIENCE)
    left = gone(folder, 60.0)
    took = time.monotonic() - since
    saved, last = max(steps_saved(folder), default=0), max(logged(folder))
    whole = saved > before and bool(tensors(folder, saved))
    lost = not whole or saved < max(step, last)
    return {"signal": number.name, "target": target, "lost": lost, "left": left, "gone after": took}


def signal_many(work: Path, args: argparse.Namespace) -> str:
    """All signals, into one run that goes on after each; returns a table."""
    done, folder = load(args.json), work / "signalled"
    trials = [(n, t) for _ in range(args.each) for n in SIGNALS for t in TARGETS]
    for index, (number, target) in enumerate(tqdm(trials, unit="signal")):
        if index >= len(done):
            done.append(signal_once(folder, number, target, random.Random(index)))
            write_atomic(args.json, json.dumps(done, indent=1))
    steps = max(steps_saved(folder)) + 10
    begin(folder, 2, options(folder, steps, every=10 * steps)).wait(10 * PATIENCE)
    wrong = differences(folder, undisturbed(work, "ddp", steps), steps)
    rows = ["| | " + " | ".join(TARGETS) + " |", "|---" * (1 + len(TARGETS)) + "|"]
    for number in SIGNALS:
        cells: list[str] = []
        for target in TARGETS:
            mine = [entry for entry in done if (entry["signal"], entry["target"]) == (number.name, target)]
            slowest = max(entry["gone after"] for entry in mine)
            lost, left = sum(entry["lost"] for entry in mine), sum(entry["left"] for entry in mine)
            cells.append(f"{len(mine)} of which {lost} lost, {left} processes left; at most {slowest:.1f} s")
        rows.append(f"| {number.name} | {' | '.join(cells)} |")
    end = "the same to the bit" if not wrong else f"otherwise: {', '.join(wrong)}"
    return "\n".join([*rows, "", f"After {len(done)} stops and {steps} steps the run ends {end}."])


def load(file: Path) -> list[dict[str, Any]]:
    """What was done before."""
    return json.loads(file.read_text()) if file.exists() else []


@contextlib.contextmanager
def workplace(given: Path | None) -> Generator[Path]:
    """A folder for the runs; one that was not named is removed."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Kills or signals; prints a table; returns 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file that holds what was done")
    parser.add_argument("--work", type=Path, help="folder for the runs (with --signals it is needed to go on)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--kills", type=int, default=240, help="in all (default 240)")
    parser.add_argument("--per-run", type=int, default=10, help="kills of a run (default 10)")
    parser.add_argument("--signals", action="store_true", help="signals that ask to stop, in place of kills")
    parser.add_argument("--each", type=int, default=10, help="trials of each signal and target (default 10)")
    args = parser.parse_args(argv)
    tqdm.monitor_interval = 0  # no thread in a process that forks
    with workplace(args.work) as work:
        warm_up(work / "warm")
        print((signal_many if args.signals else kill_many)(work, args))
    bad = Counter(key for entry in load(args.json) for key in ("lost", "wrong") if entry.get(key))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
