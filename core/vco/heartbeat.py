"""Signs of life of the processes of a run: who waits knows whether the others still work, and which one does not.

One process may work alone for long: it draws samples, or writes a checkpoint to slow storage. The others must wait for
it then, however long that takes; and they must not wait for one that was stopped or hangs. Every process counts up,
from a thread of its own, in the key-value store by which the processes have met.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import CDLL
from typing import Any, Final

import torch.distributed as dist
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]

from vco.errors import LostProcessError

INTERVAL: Final = 1.0
"""Seconds between two signs of life."""
GRACE: Final = 10.0
"""Seconds of silence after which a process is given up when this one has been asked to stop: a launcher that has seen a
process die asks the others, and kills them if they take long."""
PR_SET_PDEATHSIG: Final = 1
"""Number of the Linux call by which a process is signalled when its parent ends (man 2 prctl)."""


class Heartbeats:
    """The signs of life of all processes; it begins to send those of this one."""

    def __init__(self, timeout: float) -> None:
        """Begins.

        Args:
            timeout: seconds without a sign of life after which a process is given up.
        """
        default = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        self.store: Any = PrefixStore("vco", default)
        self.rank, self.count, self.timeout = dist.get_rank(), dist.get_world_size(), timeout
        self._meet = self.exchange("here")
        self.hurried = False
        """Whether this process has been asked to stop, and waits for nobody who may be dead."""
        self._ended = threading.Event()
        self._lost: LostProcessError | None = None
        threading.Thread(target=self._send, daemon=True).start()

    def close(self) -> None:
        """Ends the signs of life of this process."""
        self._ended.set()

    @property
    def lost(self) -> bool:
        """Whether it is known that a process is lost."""
        return self._lost is not None

    def meet(self) -> None:
        """Waits until all processes are here, as long as those that are not are alive.

        Raises:
            LostProcessError: if one has given no sign of life for `timeout` seconds (`GRACE` in a hurry), with its
                number; or is known to be lost.
        """
        self._meet("")

    def exchange(self, topic: str) -> Callable[[str], list[str]]:
        """What tells all processes something, and hears what each of them says, in the order of processes.

        It waits as `meet` does. Each process calls it equally often, from whichever thread.

        Args:
            topic: a name that no other exchange has.
        """
        number = 0

        def exchanged(said: str) -> list[str]:
            nonlocal number
            number += 1
            keys = [f"{topic}/{number}/{rank}" for rank in range(self.count)]
            self.store.set(keys[self.rank], said)
            self.store.delete_key(f"{topic}/{number - 2}/{self.rank}")  # all have come to the one after: they know it
            self._await(keys)
            return [self.store.get(key).decode() for key in keys]

        return exchanged

    def _await(self, keys: Sequence[str]) -> None:
        """Waits for a key of each process; raises as `meet` does."""
        since, seen = dict.fromkeys(range(self.count), time.monotonic()), self._beats()
        pause = 0.001
        while absent := [rank for rank, key in enumerate(keys) if not self.store.check([key])]:
            if self._lost is not None:
                raise self._lost
            time.sleep(pause)
            pause = min(2 * pause, 0.2)
            beats, now = self._beats(), time.monotonic()
            for rank in absent:
                if beats[rank] != seen[rank]:
                    since[rank], seen[rank] = now, beats[rank]
                elif now - since[rank] > (min(GRACE, self.timeout) if self.hurried else self.timeout):
                    raise self._given_up([rank])

    def explain(self, error: RuntimeError) -> LostProcessError:
        """What a failed exchange with other processes means: which of them gives no sign of life."""
        before = self._beats()
        time.sleep(3 * INTERVAL)
        silent = [rank for rank, beat in self._beats().items() if beat == before[rank] and rank != self.rank]
        if silent:
            return self._given_up(silent)
        self._lost = LostProcessError(
            f"training stopped: the exchange between processes failed ({str(error).splitlines()[0]:.200}), though all "
            "of them are alive; a slow network or reader needs a longer --train.timeout",
            says=self.rank == 0,
        )
        return self._lost

    def _given_up(self, ranks: list[int]) -> LostProcessError:
        """The error that names lost processes; the first of those that are left says it."""
        who = f"process {ranks[0]} is" if len(ranks) == 1 else f"processes {', '.join(map(str, ranks))} are"
        self._lost = LostProcessError(
            f"training stopped: {who} stopped, lost or hung (no sign of life, --train.timeout {self.timeout:.0f}); the "
            "same command goes on from the newest checkpoint",
            says=self.rank == min(set(range(self.count)) - set(ranks)),
        )
        return self._lost

    def _beats(self) -> dict[int, bytes]:
        """The last sign of life of each process."""
        keys = [f"alive/{rank}" for rank in range(self.count)]
        return {rank: self.store.get(key) if self.store.check([key]) else b"" for rank, key in enumerate(keys)}

    def _send(self) -> None:
        number = 0
        with suppress(RuntimeError):  # the store is gone, and the run with it
            while not self._ended.wait(INTERVAL):
                number += 1
                self.store.set(f"alive/{self.rank}", str(number))


def end_with_launcher() -> None:
    """Makes this process stop, and save, when the launcher that has started it dies; only Linux can do that."""
    if "RANK" not in os.environ:
        return
    with suppress(OSError, AttributeError):
        CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:  # it was gone before we asked
            signal.raise_signal(signal.SIGTERM)
