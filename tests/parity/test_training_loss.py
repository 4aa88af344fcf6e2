"""The training loss against the published code: given times, noises and dropped rows."""

import torch
from parity.golden_objective import objective, specs_of
from parity.goldens import assert_close, load_backbone, load_golden
from parity.official_names import translate
from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition, GuidanceSetting
from vco.randomness import RowGenerator
from vco.step_inputs import Inputs
from vco_plugins.guidance.structural import Structural

STREAM_WEIGHTS = {IMAGE: 1.0, FEATURES: 0.1}


class _GivenRows(Structural):
    rows: Tensor

    def condition(self, labels: Tensor, generator: torch.Generator) -> Condition:
        return self.without(labels, self.rows)


def test_training_loss_and_gradients_are_those_of_the_published_code() -> None:
    golden = load_golden("training_loss")
    t, labels = golden.inputs["t"], golden.inputs["y"]
    streams = {IMAGE: golden.input("x", len(labels)), FEATURES: golden.input("feature", len(labels))}
    num_classes = len(golden.weights["y_embedder.embedding_table.weight"]) - 1
    guidance = _GivenRows(Structural.Config(), GuidanceSetting(streams=specs_of(streams), num_classes=num_classes))
    guidance.rows = golden.inputs["drop"]
    backbone = load_backbone(golden, image_size=(streams[IMAGE].shape[2], streams[IMAGE].shape[3]))
    model = objective(backbone, guidance, streams, t, STREAM_WEIGHTS)
    noise = {IMAGE: golden.input("noise.pixel", len(labels)), FEATURES: golden.input("noise.feature", len(labels))}
    inputs = Inputs(images=streams[IMAGE], labels=labels, noise=noise, generator=RowGenerator((0,), range(len(labels))))
    losses = model(inputs, model.draw(labels, seed=0, step=0))
    losses["loss"].backward()

    assert_close(losses["loss"].detach().reshape(1), golden.outputs["total_loss"])
    assert_close(losses[IMAGE].detach().reshape(1), golden.outputs["loss_pixels"])
    # the published code has multiplied it by its weight
    assert_close(STREAM_WEIGHTS[FEATURES] * losses[FEATURES].detach().reshape(1), golden.outputs["loss_dinov2"])
    grads = {name: p.grad for name, p in model.backbone.named_parameters() if p.grad is not None}
    norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
    assert_close(norm.reshape(1), golden.outputs["grad_norm_total"])
    prefix = "grad."
    expected = translate({n.removeprefix(prefix): g for n, g in golden.outputs.items() if n.startswith(prefix)})
    assert len(expected) == 4
    for name, value in expected.items():
        assert_close(grads[name], value)
