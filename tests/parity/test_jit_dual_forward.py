import pytest
import torch
from parity.goldens import assert_close, load_backbone, load_golden, thinned

from vco.api import FEATURES, IMAGE, Condition

ASYMMETRIC = [(IMAGE, FEATURES)]
EDGES = {"full": [], "asym": ASYMMETRIC, "sym": [*ASYMMETRIC, (FEATURES, IMAGE)]}


@pytest.mark.parametrize("mask", EDGES)
def test_jit_dual_predicts_what_the_published_code_predicts(mask: str) -> None:
    golden = load_golden("jit_dual_forward")
    t, labels = golden.inputs["t"], golden.inputs["y"]
    noisy = {IMAGE: golden.input("x", len(t)), FEATURES: golden.input("z", len(t))}
    backbone = load_backbone(golden, image_size=(noisy[IMAGE].shape[2], noisy[IMAGE].shape[3]))
    blocked_rows = torch.tensor([row == 0 for row in range(len(t))])  # as the files were made: [True, False]
    condition = Condition(labels=labels, blocked=dict.fromkeys(EDGES[mask], blocked_rows))
    with torch.no_grad():
        clean = thinned(backbone(noisy, {IMAGE: t, FEATURES: t}, condition).clean)
    assert_close(clean[IMAGE], golden.outputs[f"{mask}.pixel"])
    assert_close(clean[FEATURES], golden.outputs[f"{mask}.feature"])
