"""Sums and rows of all processes, and the gradients that flow back through them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vco.api import gather_rows, sum_over_processes

TWO = """
import json, sys
import torch
from torch import distributed
from vco.api import gather_rows, sum_over_processes

rank = int(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=rank, world_size=2)
mine = (torch.arange(6.0).view(3, 2) + 10 * rank).requires_grad_()

# what each process makes of all rows differs, and every process's loss depends on every row
rows = gather_rows(mine)
factors = torch.arange(12.0).view(6, 2) + 100 * rank
(of_rows,) = torch.autograd.grad((rows * factors).sum(), [mine])

total = sum_over_processes(mine * mine)
(of_sum,) = torch.autograd.grad((total * (1 + rank)).sum(), [mine])

# a strided tensor, gathered as it looks
turned = gather_rows(mine.detach().T)
found = {"rows": rows, "of_rows": of_rows, "total": total, "of_sum": of_sum, "turned": turned, "mine": mine}
with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
    json.dump({name: tensor.tolist() for name, tensor in found.items()}, file)
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What two processes have found."""
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen([sys.executable, "-c", TWO, str(folder), str(rank)], env=environment) for rank in (0, 1)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    answers = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in (0, 1)]
    return [{name: torch.tensor(value) for name, value in answer.items()} for answer in answers]


def test_rows_are_gathered_in_the_order_of_processes(both: list[dict[str, torch.Tensor]]) -> None:
    expected = torch.cat([both[0]["mine"], both[1]["mine"]])
    for one in both:
        assert torch.equal(one["rows"], expected)
        assert torch.equal(one["turned"], torch.cat([both[0]["mine"].T, both[1]["mine"].T]))


def test_a_gathered_row_gets_the_gradients_of_all_processes(both: list[dict[str, torch.Tensor]]) -> None:
    # process 0 has the factors 0..11, process 1 100..111
    factors = 2 * torch.arange(12.0).view(6, 2) + 100
    assert torch.equal(both[0]["of_rows"], factors[:3])
    assert torch.equal(both[1]["of_rows"], factors[3:])


def test_sums_and_their_gradients_run_over_all_processes(both: list[dict[str, torch.Tensor]]) -> None:
    expected = both[0]["mine"].square() + both[1]["mine"].square()
    for one in both:
        assert torch.equal(one["total"], expected)
        assert torch.equal(one["of_sum"], 2 * one["mine"] * (1 + 2))  # the losses of both count, once and twice


@pytest.mark.parametrize("function", [gather_rows, sum_over_processes])
def test_one_process_gets_its_input_back(function: object) -> None:
    mine = torch.ones(3, 2)
    assert callable(function)
    assert function(mine) is mine
