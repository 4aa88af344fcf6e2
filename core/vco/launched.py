"""How many processes a launcher has started, read from what it leaves in the environment.

Processes that a launcher starts without telling them of each other would train as many runs, or one run in place of
many processes, without a word. Each such case is refused.
"""

import os
from collections.abc import Mapping
from typing import Final

from vco.errors import UserError

COUNTS: Final = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
}
"""Variable that says how many tasks were started -> who sets it. None of them tells PyTorch about the others."""


def process_count(environment: Mapping[str, str] = os.environ) -> int:
    """The number of training processes that a launcher has started; 1 without a launcher.

    Raises:
        UserError: if what stands there cannot be, or several processes were started that do not know each other.
    """
    rank, count = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        said = f"the environment says RANK={rank} and WORLD_SIZE={count}, as no launcher does"
        raise UserError(f"{said}; unset both for one process, or start several with torchrun")
    alone = "WORLD_SIZE" not in environment
    for name, starter in COUNTS.items():
        tasks = environment.get(name, "1")
        if not tasks.isdecimal() or int(tasks) < 2:
            continue
        if alone:
            raise UserError(
                f"{starter} has started {tasks} processes that do not know each other, and would train {tasks} single "
                f"runs ({name}={tasks}); start one launcher on each node, as in `srun torchrun --nproc-per-node 8 ... "
                f"-m vco.cli`, or unset {name} for runs of their own"
            )
        if environment.get("GROUP_WORLD_SIZE") == "1":  # what torchrun calls the number of launchers
            raise UserError(
                f"{starter} has started {tasks} launchers that do not know each other, and would train {tasks} single "
                f"runs ({name}={tasks}); give each of them --nnodes {tasks} --rdzv-backend c10d and the same "
                f"--rdzv-endpoint HOST:PORT (accelerate launch: --num_machines), or unset {name} for runs of their own"
            )
    if alone and "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        raise UserError(
            "accelerate launch was asked for several processes and has started one, as it does with --cpu or on a "
            "single GPU; start them with torchrun (and ACCELERATE_USE_CPU=true where there is no GPU), or leave "
            "--num_processes out and unset MASTER_ADDR for one process"
        )
    return int(count)
