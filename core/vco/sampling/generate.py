"""Sampling to disk: batches are shared out among processes, and written while the next ones are made."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Final

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from vco.compiling import tally
from vco.distributed import autocast_of
from vco.objective import Objective
from vco.run import Run
from vco.sampling.outputs import Output
from vco.sampling.progress import Progress
from vco.sampling.request import Request
from vco.sampling.sample import sample, whole_batch

WRITERS: Final = min(8, os.cpu_count() or 1)
"""Threads of a process that encode and write."""


def generate(
    run: Run,
    objective: Objective,
    request: Request,
    output: Output,
    accelerator: Accelerator,
    device: torch.device | str,
) -> int:
    """Makes and writes the images that are still missing; every process calls it.

    A batch is a block of consecutive numbers, whoever makes it: so an image is computed beside the same others, to the
    last bit, with one process and with many, and after a restart. At most two blocks are in memory.

    Returns:
        How many images were made, by all processes together.
    """
    size = run.config.sample.batch_size
    blocks: list[range] = []
    if accelerator.is_main_process:
        missing = output.missing(request)
        every = [range(start, min(start + size, request.num)) for start in range(0, request.num, size)]
        blocks = [block for block in every if any(missing[block.start : block.stop])]
    (blocks,) = broadcast_object_list([blocks])
    processes = accelerator.num_processes
    mine = blocks[accelerator.process_index :: processes]
    progress = Progress(
        sum(map(len, mine)),
        run.config.sample.steps,
        title=f"1 of {processes} processes" if processes > 1 else "",
        shown=accelerator.is_main_process and bool(mine),
    )
    written: Sequence[Future[None]] = ()
    rows = whole_batch(run, request.num)
    with ThreadPoolExecutor(WRITERS) as pool, closing(progress), autocast_of(run.config, device):
        for block in mine:
            progress.begin(len(block))
            labels = request.labels_of(block)
            images = sample(run, objective, labels, block, device, request.seed, progress.step, rows)
            _wait(written)
            written = output.write(pool, block.start, images)
        _wait(written)
    tally.tell(accelerator.print)
    return sum(map(len, blocks))


def _wait(written: Sequence[Future[None]]) -> None:
    """Waits for files; raises what writing them has raised."""
    for future in written:
        future.result()
