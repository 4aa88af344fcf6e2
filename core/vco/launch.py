"""The processes of a run: how many a launcher has started, and what one of them cannot do ends all."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object

from vco.errors import TrainingStoppedError, UserError
from vco.registry import one_line
from vco.settings import RunConfig


def processes() -> int:
    """How many there are, as the launcher has put it into the environment; 1 without a launcher.

    Raises:
        UserError: if what stands there cannot be.
    """
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        said = f"the environment says RANK={rank} and WORLD_SIZE={count}, as no launcher does"
        raise UserError(f"{said}; unset both for one process, or start several with torchrun")
    return int(count)


def meet(config: RunConfig) -> Accelerator:
    """Device, precision and the other processes.

    Raises:
        UserError: if the processes do not find each other.
    """
    cuda = torch.cuda.is_available()
    bf16 = cuda and torch.cuda.is_bf16_supported()
    precision = {"auto": "bf16" if bf16 else "no", "fp32": "no", "bf16": "bf16"}[config.mixed_precision]
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=config.train.timeout))
    try:
        accelerator = Accelerator(cpu=not cuda, mixed_precision=precision, kwargs_handlers=[timeout])
        if accelerator.num_processes != processes():
            raise ValueError(f"{processes()} were started, but {accelerator.num_processes} see each other")
    except (ValueError, RuntimeError) as error:  # also of Accelerate, and of PyTorch's rendezvous
        raise UserError(
            f"the processes cannot meet ({one_line(error)}): start several with torchrun (and ACCELERATE_USE_CPU=true "
            "where there is no GPU), or unset RANK, LOCAL_RANK and WORLD_SIZE for one process"
        ) from error
    return accelerator


@contextmanager
def together() -> Generator[None]:
    """Where one process cannot do what is in the block, none goes on: each error is raised in all of them.

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
