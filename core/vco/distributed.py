"""The processes of a run: how many there are, how they connect, and how an error of one becomes an error of all."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object

from vco.config.settings import RunConfig
from vco.errors import TrainingStoppedError, UserError, one_line


def process_count() -> int:
    """The number of training processes that a launcher has started, read from the environment; 1 without a launcher.

    Raises:
        UserError: if what stands there cannot be.
    """
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        said = f"the environment says RANK={rank} and WORLD_SIZE={count}, as no launcher does"
        raise UserError(f"{said}; unset both for one process, or start several with torchrun")
    return int(count)


def connect_processes(config: RunConfig) -> Accelerator:
    """Connects this process with the others and chooses device and precision.

    Raises:
        UserError: if the processes do not find each other.
    """
    cuda = torch.cuda.is_available()
    bf16 = cuda and torch.cuda.is_bf16_supported()
    precision = {"auto": "bf16" if bf16 else "no", "fp32": "no", "bf16": "bf16"}[config.mixed_precision]
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=config.train.timeout))
    try:
        accelerator = Accelerator(cpu=not cuda, mixed_precision=precision, kwargs_handlers=[timeout])
        if accelerator.num_processes != process_count():
            raise ValueError(f"{process_count()} were started, but {accelerator.num_processes} see each other")
    except (ValueError, RuntimeError) as error:  # also of Accelerate, and of PyTorch's rendezvous
        raise UserError(
            f"the processes cannot meet ({one_line(error)}): start several with torchrun (and ACCELERATE_USE_CPU=true "
            "where there is no GPU), or unset RANK, LOCAL_RANK and WORLD_SIZE for one process"
        ) from error
    return accelerator


@contextmanager
def errors_shared() -> Generator[None]:
    """Raises an error that any process meets inside the block in all processes, so that none of them goes on alone.

    Raises:
        UserError: with each sentence once, those of others than process 0 with their number.
    """
    mine: UserError | None = None
    try:
        yield
    except UserError as error:
        mine = error
    said: dict[str, int] = {}
    for number, sentence in enumerate(gather_object([str(mine or "")])):
        said.setdefault(sentence, number)
    lines = [f"process {number}: {sentence}" if number else sentence for sentence, number in said.items() if sentence]
    if lines:
        error = TrainingStoppedError if isinstance(mine, TrainingStoppedError) else UserError
        raise error("\n".join(lines)) from mine
