"""The hybrid loss against the published code."""

import pytest
from parity.goldens import assert_close, load_golden

from vco_plugins.losses.hybrid import hybrid_loss

CASES = {
    "hybrid_loss": {"tau_gate": 10.0, "tau_repulsion": 0.2},
    "hybrid_loss_sparse_classes": {"tau_gate": 1.0, "tau_repulsion": 1.0},
}


@pytest.mark.parametrize("name", CASES)
def test_hybrid_loss_and_gradient_are_those_of_the_published_code(name: str) -> None:
    golden = load_golden(name)
    generated = golden.inputs["generated"].clone().requires_grad_()
    loss = hybrid_loss(generated, golden.inputs["positive"], golden.inputs["labels"], **CASES[name]).mean()
    loss.backward()
    assert generated.grad is not None
    assert_close(loss.detach().reshape(1), golden.outputs["loss"])
    assert_close(generated.grad, golden.outputs["grad"])
