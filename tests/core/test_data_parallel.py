"""What data-parallel processes send each other beside gradients."""

from typing import Any

import pytest
from accelerate import Accelerator
from objectives import make_run
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from vco.distributed import connect_processes
from vco.training.data_parallel import data_parallel


@pytest.fixture
def alone(tmp_path: Any) -> Any:
    """A group of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(("adapter", "sent"), [("none", set()), ("coredi", {"running_mean", "running_var"})])
def test_only_buffers_that_are_saved_are_sent(adapter: str, sent: set[str], alone: None) -> None:
    objective = make_run("--backbone", "jit-dual", "--adapter", adapter).objective
    assert data_parallel(Accelerator(cpu=True), objective) is objective  # one process
    wrapped = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    names = {id(buffer): name for name, buffer in objective.named_buffers()}
    assert {names[id(buffer)].rpartition(".")[2] for buffer in wrapped.modules_buffers} == sent


def test_gradients_are_views_of_what_is_sent() -> None:
    handler = connect_processes(make_run().config).ddp_handler
    assert handler is not None
    assert handler.gradient_as_bucket_view
