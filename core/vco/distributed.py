"""The processes of a run: how they connect, and how an error of one becomes an error of all."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import gather_object

from vco.config.settings import RunConfig
from vco.errors import TrainingStoppedError, UserError, one_line
from vco.heartbeat import Heartbeats, end_with_launcher
from vco.launched import process_count

_beating: list[Heartbeats] = []
"""The signs of life of this run's processes; empty where there is one process."""
EXCHANGE: Final = ("gloo", "NCCL", "Gloo", "Connection", "Timed out", "ProcessGroup", "Broken pipe")
"""Words of the errors that a failed exchange between processes raises."""


def precision_of(config: RunConfig, device: torch.device | str) -> Literal["fp32", "bf16"]:
    """The arithmetic of a run's network on a device, in training and in sampling."""
    if config.mixed_precision != "auto":
        return config.mixed_precision
    return "bf16" if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def autocast_of(config: RunConfig, device: torch.device | str) -> torch.autocast:
    """The context in which a run's network computes as it did in training."""
    bf16 = precision_of(config, device) == "bf16"
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16)


def connect_processes(config: RunConfig) -> Accelerator:
    """Connects this process with the others and chooses device and precision.

    Raises:
        UserError: if the processes do not find each other.
    """
    cuda = torch.cuda.is_available()
    precision = {"fp32": "no", "bf16": "bf16"}[precision_of(config, "cuda" if cuda else "cpu")]
    end_with_launcher()
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=config.train.timeout))
    try:
        # gradients are views of what is sent, so that none is copied, or held twice
        views = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        accelerator = Accelerator(cpu=not cuda, mixed_precision=precision, kwargs_handlers=[timeout, views])
        if accelerator.num_processes != process_count():
            raise ValueError(f"{process_count()} were started, but {accelerator.num_processes} see each other")
    except (ValueError, RuntimeError) as error:  # also of Accelerate, and of PyTorch's rendezvous
        raise UserError(
            f"the processes cannot meet ({one_line(error)}): start several with torchrun (and ACCELERATE_USE_CPU=true "
            "where there is no GPU), or unset RANK, LOCAL_RANK and WORLD_SIZE for one process"
        ) from error
    if accelerator.num_processes > 1:
        _beating.append(Heartbeats(config.train.timeout))
    return accelerator


def disconnect_processes(accelerator: Accelerator) -> None:
    """Ends the connection of the processes; not where one is lost, for which PyTorch would wait."""
    lost = any(beating.lost for beating in _beating)
    while _beating:
        _beating.pop().close()
    if not lost:
        accelerator.end_training()


def exchange(topic: str) -> Callable[[str], Sequence[str]]:
    """What tells all processes of a run something, and hears what each of them says (`Heartbeats.exchange`)."""
    return _beating[-1].exchange(topic) if _beating else lambda said: [said]


def hurry() -> None:
    """Tells that this process has been asked to stop; also from within a signal handler."""
    for beating in _beating:
        beating.hurried = True


@contextmanager
def losses_of_processes_named() -> Generator[None]:
    """Turns a failed exchange with other processes into a sentence that names the one that is stopped or hung.

    Raises:
        LostProcessError: instead of the `RuntimeError` of the exchange.
    """
    try:
        yield
    except RuntimeError as error:
        if not _beating or not any(word in str(error) for word in EXCHANGE):
            raise
        raise _beating[-1].explain(error) from error


@contextmanager
def errors_shared() -> Generator[None]:
    """Raises an error that any process meets inside the block in all processes, so that none of them goes on alone.

    One process may work in it for as long as it needs; the others wait while it is alive.

    Raises:
        UserError: with each sentence once, those of others than process 0 with their number.
    """
    mine: UserError | None = None
    try:
        yield
    except UserError as error:
        mine = error
    if _beating:
        _beating[-1].meet()
    said: dict[str, int] = {}
    for number, sentence in enumerate(gather_object([str(mine or "")])):
        said.setdefault(sentence, number)
    lines = [f"process {number}: {sentence}" if number else sentence for sentence, number in said.items() if sentence]
    if lines:
        error = TrainingStoppedError if isinstance(mine, TrainingStoppedError) else UserError
        raise error("\n".join(lines)) from mine


def usable_device(device: torch.device | str) -> torch.device:
    """A device, if this machine has it.

    Raises:
        UserError: if not.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {device} cannot be used here: {one_line(error)}") from error
    return found
