"""The training loss against the published code: given times, noises and dropped rows."""

import torch
from parity.goldens import Golden, assert_close, load_backbone, load_golden
from parity.official_names import translate
from torch import Tensor

from vco.api import FEATURES, PIXELS, Adapted, Adapter, Condition, Features, FeatureSource, Process, StreamSpec, Times
from vco.objective import Objective
from vco_plugins.guidance.structural import Structural

STREAM_WEIGHTS = {PIXELS: 1.0, FEATURES: 0.1}


class _GivenFeatures(FeatureSource):
    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        side = round(tokens.shape[1] ** 0.5)
        self.tokens = tokens
        self.spec = StreamSpec(shape=(tokens.shape[1], tokens.shape[2]), grid=(side, side))

    def load(self) -> None:
        """There is nothing to load."""

    def forward(self, images: Tensor) -> Features:
        assert self.spec.grid is not None
        return Features(tokens=self.tokens, grid=self.spec.grid, pooled=self.tokens.mean(1))


class _Unchanged(Adapter):
    def __init__(self, features: StreamSpec) -> None:
        super().__init__()
        self.features = features

    def specs(self) -> dict[str, StreamSpec]:
        return {FEATURES: self.features}

    def forward(self, features: Features) -> Adapted:
        return Adapted(value={FEATURES: features.tokens}, target={FEATURES: features.tokens})


class _GivenTimes(Process):
    def __init__(self, t: Tensor) -> None:
        super().__init__()
        self.t = t

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        return {PIXELS: self.t, FEATURES: self.t}

    def path(self, steps: int) -> Times:
        raise NotImplementedError


class _GivenRows(Structural):
    rows: Tensor

    def condition(self, labels: Tensor, generator: torch.Generator) -> Condition:
        return self.without(labels, self.rows)


def _objective(golden: Golden) -> Objective:
    images, tokens = golden.inputs["x"], golden.input("feature", len(golden.inputs["t"]))
    source = _GivenFeatures(tokens)
    backbone = load_backbone(golden, image_size=(images.shape[2], images.shape[3]))
    specs = {PIXELS: StreamSpec(shape=tuple(images.shape[1:])), FEATURES: source.spec}
    num_classes = len(golden.weights["y_embedder.embedding_table.weight"]) - 1
    guidance = _GivenRows(Structural.Config(), streams=specs, num_classes=num_classes)
    guidance.rows = golden.inputs["drop"]
    return Objective(
        backbone=backbone,
        adapter=_Unchanged(source.spec),
        losses={},
        guidance=guidance,
        process=_GivenTimes(golden.inputs["t"]),
        source=source,
        specs=specs,
        stream_weights=STREAM_WEIGHTS,
    )


def test_training_loss_and_gradients_are_those_of_the_published_code() -> None:
    golden = load_golden("training_loss")
    labels = golden.inputs["y"]
    objective = _objective(golden)
    noise = {PIXELS: golden.input("noise.pixel", len(labels)), FEATURES: golden.input("noise.feature", len(labels))}
    draw = objective.draw(labels, seed=0, step=0)
    losses = objective(golden.input("x", len(labels)), labels, draw, noise)
    losses["loss"].backward()

    assert_close(losses["loss"].detach().reshape(1), golden.outputs["total_loss"])
    assert_close(losses[PIXELS].detach().reshape(1), golden.outputs["loss_pixels"])
    # the published code has multiplied it by its weight
    assert_close(STREAM_WEIGHTS[FEATURES] * losses[FEATURES].detach().reshape(1), golden.outputs["loss_dinov2"])
    grads = {name: p.grad for name, p in objective.backbone.named_parameters() if p.grad is not None}
    norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
    assert_close(norm.reshape(1), golden.outputs["grad_norm_total"])
    prefix = "grad."
    expected = translate({n.removeprefix(prefix): g for n, g in golden.outputs.items() if n.startswith(prefix)})
    assert len(expected) == 4
    for name, value in expected.items():
        assert_close(grads[name], value)
