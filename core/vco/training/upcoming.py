"""The batches of this step and of the next one, which are read before this one is computed.

So it is known a step earlier that a batch cannot be read, and all processes can agree to stop before it, with
everything saved.
"""

from collections import deque
from collections.abc import Iterator

from vco.data.reader import Batch
from vco.distributed import errors_shared
from vco.errors import SingleProcessError, TrainingStoppedError


class Upcoming:
    """The batches of a run, some steps ahead."""

    def __init__(self, batches: Iterator[Batch], parts: int) -> None:
        """Reads nothing yet.

        Args:
            batches: the batches of all steps, in order; raises what stands in the way of reading one.
            parts: batches that make up a step.
        """
        self.error: SingleProcessError | None = None
        """Why this process cannot read the batch that comes after those it has."""
        self._batches = batches
        self._parts = parts
        self._read: deque[Batch] = deque()

    def look(self, steps: int) -> bool:
        """Reads until it has the batches of so many steps, or of all that are left; returns whether it failed."""
        while self.error is None and len(self._read) < steps * self._parts:
            try:
                batch = next(self._batches, None)
            except SingleProcessError as error:
                self.error = error
                break
            if batch is None:
                break
            self._read.append(batch)
        return self.error is not None

    def raise_error(self) -> None:
        """Raises, in all processes, what keeps any of them from reading its images."""
        with errors_shared():
            if self.error:
                raise self.error
        raise TrainingStoppedError("training stopped: an image could not be read, and now can; start the run again")

    def next(self) -> Batch:
        """The next batch; `look` has read it."""
        return self._read.popleft()
