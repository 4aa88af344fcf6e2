import torch
from parity.goldens import assert_close, load_backbone, load_golden, thinned

from vco.api import IMAGE, Condition


def test_jit_predicts_what_the_published_code_predicts() -> None:
    golden = load_golden("jit_forward")
    t, labels = golden.inputs["t"], golden.inputs["y"]
    x = golden.input("x", len(t))
    backbone = load_backbone(golden, image_size=(x.shape[2], x.shape[3]))
    with torch.no_grad():
        clean = backbone({IMAGE: x}, {IMAGE: t}, Condition(labels=labels)).clean
    assert_close(thinned(clean)[IMAGE], golden.outputs["full.pixel"])
