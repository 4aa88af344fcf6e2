"""Stopping on a signal, at a step that all processes agree on, and with everything saved."""

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from types import FrameType
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from vco.distributed import hurry

ASKING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C; schedulers and launchers; a terminal that is closed; SLURM's --signal, whichever of both."""
TIME_IS_UP: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""What SLURM sends, if asked to, some time before a job's time is up."""
UNREADABLE: Final = 128
"""What stands in the place of a signal's number where a process cannot read the images of the next step."""
UNSAVED: Final = 129
"""Likewise where a checkpoint could not be written."""
PATIENCE: Final = 3.0
"""Seconds after which a second Ctrl-C is one; launchers and terminals both send the first."""


class StopFlag:
    """Notes that a signal asks the run to stop, and lets all processes agree at which step.

    A scheduler signals every process, and a launcher forwards what it gets: so a second signal is no second wish, and
    the save goes on. Ctrl-C is one, if it comes `PATIENCE` seconds after the first: it ends the run without a save.
    """

    def __init__(self, timeout: int) -> None:
        """Begins to note signals; those that are ignored, as SIGHUP is under nohup, stay so.

        Args:
            timeout: seconds after which a process that does not answer is given up.
        """
        self.signal = 0
        self._other = 0
        self._since = 0.0
        self._former: dict[int, Any] = {
            n: signal.signal(n, self._note) for n in ASKING if signal.getsignal(n) is not signal.SIG_IGN
        }
        patience = timedelta(seconds=timeout)
        self._group: Any = dist.new_group(backend="gloo", timeout=patience) if dist.is_initialized() else None
        self._pending: tuple[Any, Tensor] | None = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self._since = number, now
            hurry()
            if number == signal.SIGHUP:
                _let_go_of_terminal()
            elif number == signal.SIGINT:
                _say(f"stopping after this step and saving; Ctrl-C again after {PATIENCE:.0f} s ends without saving")
        elif number == signal.SIGINT and self.signal == signal.SIGINT and now - self._since >= PATIENCE:
            signal.signal(number, signal.default_int_handler)
            signal.raise_signal(number)

    def close(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def agreed(self, unreadable: bool = False, unsaved: bool = False) -> int:
        """Why to stop before the coming step, the same answer in all processes: a signal, or 0 for no reason.

        Other reasons are `UNREADABLE` and `UNSAVED`.

        The answers travel over the CPU while the step is computed, so nobody waits for the device: what a process says
        in one call is answered in the next.

        Args:
            unreadable: whether this process cannot read its images of the step after the coming one.
            unsaved: whether this process could not write what it was to save.
        """
        other = max(UNREADABLE * unreadable, UNSAVED * unsaved)
        if self._group is None:
            answer, self._other = max(self.signal, self._other), other
            return answer
        answer = 0
        if self._pending is not None:
            self._pending[0].wait()
            answer = int(self._pending[1].item())
        flag = torch.tensor(max(self.signal, other))
        self._pending = (dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True), flag)
        return answer


def requeue(number: int) -> str:
    """Puts the job back into SLURM's queue if it was told that its time is up; returns a sentence on what was done.

    A job that is preempted is put back by SLURM itself (sbatch --requeue).
    """
    job, scontrol = os.environ.get("SLURM_JOB_ID", ""), shutil.which("scontrol")
    if number not in TIME_IS_UP or not job or scontrol is None:
        return ""
    done = subprocess.run([scontrol, "requeue", job], capture_output=True, text=True, timeout=60)
    if done.returncode:
        return f"job {job} could not be put back into the queue: {done.stderr.strip()}"
    return f"job {job} is back in the queue and goes on from here"


def _let_go_of_terminal() -> None:
    """Writes to nowhere from now on: a terminal that was closed would answer with an error."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream.isatty():
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _say(sentence: str) -> None:
    """Says something from within a signal handler, where nothing may be printed that has a buffer."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, f"\nvco-run: {sentence}\n".encode())
