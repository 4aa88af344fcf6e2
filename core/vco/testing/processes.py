"""The law about several training processes."""

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes

from vco.testing.case import ModuleCase, TrainedCase
from vco.testing.law import does_not_apply, law
from vco.testing.tensors import leaves, require_same, rows_of


@law(TrainedCase, once=True, slow=True)
def two_processes_give_what_one_gives(case: TrainedCase) -> None:
    """If it couples the batch, two processes with half of it each get what one gets with all of it.

    Each holds whole class groups.
    """
    component = case.build().train()
    if not getattr(component, "couples_batch", False):
        does_not_apply("it does not couple the batch")
    inputs = case.inputs(component, 1)
    batch = len(next(iter(leaves(inputs).values())))
    half = batch // 2
    whole = leaves(case.run(component, rows_of(inputs, torch.arange(2 * half), batch)))
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_share, args=(case, half, folder), nprocs=2, start_method="spawn")
        shares: list[dict[str, Tensor]] = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    joined: dict[str, Tensor] = {}
    for name, tensor in whole.items():
        parts = [share[name] for share in shares]
        joined[name] = torch.cat(parts) if tensor.ndim else torch.stack(parts).mean()
    require_same(whole, joined, "with two processes", 1e-4)


def _share(rank: int, case: ModuleCase, half: int, folder: str) -> None:
    """One of the two processes."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        component = case.build().train()
        inputs = case.inputs(component, 1)
        batch = len(next(iter(leaves(inputs).values())))
        rows = torch.arange(rank * half, (rank + 1) * half)
        outputs = leaves(case.run(component, rows_of(inputs, rows, batch)))
        torch.save({name: tensor.detach() for name, tensor in outputs.items()}, Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
