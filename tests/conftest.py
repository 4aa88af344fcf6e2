"""What all tests share."""

import os
from collections.abc import Iterator

import pytest
import torch

# networks of this size lose time by sharing a layer's work between threads; child processes inherit the variable
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test depends on a network; those of downloads say what it answers
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fits and tables are kept in folders of this session, never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("tables")))  # read when datasets is imported
        yield
