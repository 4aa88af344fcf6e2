"""The work on the study: commands that run within a time, and the lines that say what they found."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from study_plan import Run

VCO = "import sys; from vco.cli import main_vco; sys.exit(main_vco(sys.argv[1:]))"
LONGEST_SAVE = 60.0
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class OutOfTimeError(Exception):
    """The budget is used up; what was running has been stopped and will go on."""


class Study:
    """Does pieces of work within a time, and writes down what they found."""

    def __init__(self, results: Path, deadline: float) -> None:
        self.results, self.deadline = results, deadline
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped = 0
        """The signal that has stopped it; 0 if none has."""
        lines = results.read_text().splitlines() if results.exists() else []
        self.found: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip().endswith("}")]

    def of(self, run: Run, kind: str) -> dict[str, Any] | None:
        """What a piece of work on a run has found; None if it is still to be done."""
        wanted = {"data": run.data.name, "method": run.method, "config": run.config, "seed": run.seed, "kind": kind}
        with self._lock:
            return next((line for line in self.found if wanted.items() <= line.items()), None)

    def add(self, run: Run, kind: str, what: Mapping[str, Any]) -> None:
        """Writes down what was found."""
        named = {"data": run.data.name, "method": run.method, "config": run.config, "seed": run.seed, "kind": kind}
        line = {**named, **what, "options": run.options, "more": run.data.more, "folder": run.folder.name}
        with self._lock, self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
            self.found.append(line)

    def command(self, program: Sequence[str], log: Path) -> str:
        """Runs a command in one thread, its output into a file; at the end of the time it is asked to stop.

        Raises:
            OutOfTimeError: if it was.
            RuntimeError: if it failed.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        if time.monotonic() > self.deadline:
            raise OutOfTimeError
        with log.open("a") as file:
            begin = file.tell()
            threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            process = subprocess.Popen(
                program, stdout=file, stderr=subprocess.STDOUT, env=os.environ | threads, start_new_session=True
            )  # of the signals of a terminal, it gets only what is handed on
            self._running.add(process)
            try:
                left = self.deadline - time.monotonic()
                status = process.wait(None if left == math.inf else max(0.0, left))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(LONGEST_SAVE)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise OutOfTimeError from None
            finally:
                self._running.discard(process)
        if self.stopped:
            raise OutOfTimeError
        with log.open() as file:
            file.seek(begin)
            said = file.read()
        if status:
            last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
            raise RuntimeError(f"{last.strip()} (status {status}; all it said is in {log})")
        return said

    @contextmanager
    def heeding_signals(self) -> Generator[None]:
        """Within it, a signal to stop is handed on to the commands, which would go on otherwise."""
        heeded = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has it
        before = {number: signal.signal(number, self._stop) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def vco(self, run: Run, *arguments: str) -> str:
        """Runs a verb of `vco`."""
        return self.command([sys.executable, "-c", VCO, *arguments], Path(f"{run.folder}.log"))

    def _stop(self, number: int, _: object) -> None:
        self.stopped, self.deadline = number, -math.inf
        for process in tuple(self._running):
            process.send_signal(signal.SIGTERM)
