"""Laws about several training processes; in the quick one threads stand in for them."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes

from vco.api import Loss
from vco.testing.case import TrainedCase
from vco.testing.law import does_not_apply, law
from vco.testing.laws.loss_case import LossCase
from vco.testing.tensors import leaves, require_same, rows_of
from vco.testing.threads_as_processes import as_processes

DECIDED: Final = "split between real processes"
"""The note that real processes have said what threads could not."""


def _couples(component: Any) -> bool:
    return getattr(component, "couples_batch", False)


@law(TrainedCase, about=lambda component: issubclass(component, Loss) or _couples(component))
def is_independent_of_the_split(case: TrainedCase) -> None:
    """A sample has the same value however processes share the batch; scalars are the mean of shares.

    Shares are single samples, or whole class groups where the loss couples them. Threads stand in for processes. Where
    they give something else, real ones decide, once: threads do not hear of every way to sum over processes.
    """
    _require_independent(case)


@law(LossCase, about=lambda loss: loss.gathers_mates)
def class_groups_may_be_split(case: LossCase) -> None:
    """If it says `gathers_mates`, a sample has the same value where its class mates are on other processes."""
    _require_independent(attrs.evolve(case, split=True))


def _require_independent(case: TrainedCase) -> None:
    """Raises `ViolationError` if shares of the batch do not give what the whole gives."""
    count = len(case.shares())
    if count < 2 or DECIDED in case.subject.notes:
        does_not_apply("its samples cannot be shared at this size, or real processes have decided")
    whole, shares = _outputs(case, None)(), [_outputs(case, rank) for rank in range(count)]
    if not _couples(case.subject.component):  # nothing is summed over processes: one after the other will do
        require_same(whole, _joined([share() for share in shares]), f"{count} shares", 1e-4)
        return
    try:
        require_same(whole, _joined(as_processes(shares)), f"{count} shares")
    except Exception:
        require_same_in_processes(case)
        case.subject.notes[DECIDED] = True


@law(TrainedCase, once=True, slow=True, about=_couples)
def two_processes_give_what_one_gives(case: TrainedCase) -> None:
    """If it couples the batch, two processes with half of it each get what one gets with all of it.

    Each holds whole class groups.
    """
    require_same_in_processes(case)


def _outputs(case: TrainedCase, rank: int | None) -> Callable[[], dict[str, Tensor]]:
    """What gives the outputs for a process's share of the batch, or for all shares."""
    component = case.build().train(_couples(case.subject.component))
    inputs, shares = case.inputs(component, 1), case.shares()
    batch = len(next(iter(leaves(inputs).values())))
    share = rows_of(inputs, torch.cat(shares) if rank is None else shares[rank], batch)
    return lambda: {name: tensor.detach() for name, tensor in leaves(case.run(component, share)).items()}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The outputs of all shares as one: rows in a row, scalars averaged."""
    tensors = {name: [part[name] for part in parts] for name in parts[0]}
    return {name: torch.cat(found) if found[0].ndim else torch.stack(found).mean() for name, found in tensors.items()}


def require_same_in_processes(case: TrainedCase) -> None:
    """Raises `ViolationError` if real processes with a share of the batch each get something else than one with all."""
    count = len(case.shares())
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_process, args=(case, count, folder), nprocs=count, start_method="spawn")
        parts: list[dict[str, Tensor]] = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(count)]
    require_same(_outputs(case, None)(), _joined(parts), f"with {count} processes", 1e-4)


def _process(rank: int, case: TrainedCase, count: int, folder: str) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    try:
        torch.save(_outputs(case, rank)(), Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
