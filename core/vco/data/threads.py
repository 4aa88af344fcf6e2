"""Work on many images at a time, in threads: decoding and reading let each other run."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

AHEAD: Final = 4
"""Results that wait for each thread: all at once would hold all images in memory."""
Result = TypeVar("Result")


def in_threads(work: Callable[[int], Result], indices: Iterable[int], threads: int) -> Iterator[Result]:
    """The result for each index, in order; what `work` raises comes out in its turn."""
    rest = iter(indices)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(work, index) for index in islice(rest, AHEAD * threads))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, index) for index in islice(rest, 1))
        finally:
            for future in waiting:
                future.cancel()
