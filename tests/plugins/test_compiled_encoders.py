"""Blocks of published encoders are one graph each, with the features that they have uncompiled."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from tiny_encoders import CASES, SIDE, Case


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """No compiler can see through checks of shapes."""
    torch._dynamo.reset()
    checked = not jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", not checked)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_blocks_of_an_encoder_compile_without_breaks(case: Case, tmp_path: Path) -> None:
    case.save(tmp_path)
    source: Any = case.load(tmp_path, resolution=SIDE)
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = source(images).tokens
    for block in source.block_modules():
        fast = torch.compile(type(block).forward, backend="eager", fullgraph=True, dynamic=False)
        block.forward = partial(fast, block)
    torch.testing.assert_close(source(images).tokens, expected, rtol=1e-5, atol=1e-5)
