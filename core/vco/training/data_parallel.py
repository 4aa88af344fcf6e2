"""Data-parallel training: every process holds the model, and averages gradients with the others."""

from typing import Any

from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from vco.objective import Objective


def data_parallel(accelerator: Accelerator, objective: Objective) -> Any:
    """The model as a step calls it: itself where there is one process, else wrapped for data-parallel training.

    What is saved among its buffers is the first process's, in every step: a plugin's running statistics stay equal.
    Tables that are not saved are never sent.
    """
    saved = objective.state_dict().keys()
    tables = [name for name, _ in objective.named_buffers() if name not in saved]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, tables)  # pyright: ignore
    return accelerator.prepare(objective)
