"""Tensors without content: what a dry run builds has the shapes and types of what is trained, and is built fast."""

import subprocess
import sys

import torch
from torch import nn

from vco.outline import outline


def test_what_is_made_has_shape_and_type_and_nothing_is_drawn() -> None:
    state = torch.get_rng_state()
    with outline():
        layer = nn.Linear(3, 4)
        nn.init.normal_(layer.weight)
        made = {
            "product": torch.randn(2, 3) * 0.5,
            "of two": torch.rand(2, 1) * torch.ones(3, dtype=torch.float64),
            "drawn": torch.randn(2, 3, generator=torch.Generator()),
            "square": torch.eye(3),
            "like": torch.randn_like(torch.empty(2, dtype=torch.bfloat16)),
        }
        beside = torch.ones(2, device="cpu") * 3
    assert all(parameter.is_meta for parameter in layer.parameters())
    assert {name: (tuple(t.shape), t.dtype) for name, t in made.items() if t.is_meta} == {
        "product": ((2, 3), torch.float32),
        "of two": ((2, 3), torch.float64),
        "drawn": ((2, 3), torch.float32),
        "square": ((3, 3), torch.float32),
        "like": ((2,), torch.bfloat16),
    }
    assert beside.tolist() == [3.0, 3.0]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dry_run_waits_for_no_library_that_it_does_not_need() -> None:
    """PyTorch's compiler alone takes longer to load than a dry run."""
    program = (
        "import sys; from vco.cli import main_run; assert main_run(['--dry-run']) == 0; "
        "heavy = ('torch._dynamo', 'sympy', 'triton', 'torchvision', 'sklearn'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
