"""Alignment losses, against loops written out and against what their definitions imply."""

from typing import Any

import pytest
import steps
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vco.api import IMAGE, Features, FeatureSetting, FeatureSource, FeatureSpec, LossSetting, Step, StreamSpec
from vco_plugins.losses.hybrid import Hybrid
from vco_plugins.losses.hybrid import hybrid_loss as hybrid_losses
from vco_plugins.losses.perceptual import Perceptual


class Patches(FeatureSource):
    """Random projections of 4 x 4 patches; the pooled vector is a projection of the whole image."""

    def __init__(self, config: FeatureSource.Config, setting: FeatureSetting) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.to_token = torch.randn(48, 6, generator=generator)
        self.to_pooled = torch.randn(192, 5, generator=generator)
        self.spec = FeatureSpec(tokens=(4, 6), grid=(2, 2))

    def load(self) -> None:
        pass

    def forward(self, images: torch.Tensor) -> Features:
        tokens = F.unfold(images, 4, stride=4).mT @ self.to_token
        return Features(tokens=tokens, grid=(2, 2), pooled=images.flatten(1) @ self.to_pooled)


SOURCE = Patches(FeatureSource.Config(), FeatureSetting(image_shape=(3, 8, 8)))
SETTING = LossSetting(
    width=8,
    grid=(2, 2),
    depth=2,
    features={"patches": SOURCE.spec},
    streams={IMAGE: StreamSpec(shape=(3, 8, 8))},
    num_classes=10,
)


def make_step(predicted: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> Step:
    return steps.make_step(predicted, images, labels, {"patches": SOURCE})


def images_of(*labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    predicted, images = torch.randn(2, len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return predicted, images, torch.tensor(labels)


def hybrid_loss(*arguments: Any, **options: Any) -> torch.Tensor:
    return hybrid_losses(*arguments, **options).mean()


def hybrid(**options: Any) -> Hybrid:
    return Hybrid(Hybrid.Config(**options), SETTING)


def perceptual(gate: float | None = None) -> Perceptual:
    return Perceptual(Perceptual.Config(gate=gate), SETTING)


# ---------------------------------------------------------------------------------------------------------- perceptual


def test_perceptual_is_one_minus_cosine_averaged_over_tokens_and_samples() -> None:
    predicted, images, labels = images_of(0, 1, 2)
    expected = [
        1 - F.cosine_similarity(ours, theirs, dim=0)
        for ours, theirs in zip(
            SOURCE(predicted).tokens.flatten(0, 1), SOURCE(images).tokens.flatten(0, 1), strict=True
        )
    ]
    actual = perceptual()(make_step(predicted, images, labels))["perceptual"].mean()
    torch.testing.assert_close(actual, torch.stack(expected).mean())


def test_perceptual_vanishes_for_a_perfect_prediction() -> None:
    _, images, labels = images_of(0, 1)
    # rounding of a float32 cosine
    assert abs(perceptual()(make_step(images, images, labels))["perceptual"].mean().item()) < 1e-6


def test_perceptual_gradient_reaches_the_prediction_and_not_the_target() -> None:
    predicted, images, labels = images_of(0, 1)
    predicted.requires_grad_()
    step = make_step(predicted, images, labels)
    tokens = step.real().tokens.requires_grad_()
    perceptual()(step)["perceptual"].mean().backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().max() > 0
    assert tokens.grad is None


def test_gate_lets_only_distant_samples_count() -> None:
    predicted, images, labels = images_of(0, 1, 2)
    predicted[1] = images[1] + 1e-3 * predicted[1]  # cosine almost 1
    predicted.requires_grad_()
    gated = perceptual(gate=0.99)(make_step(predicted, images, labels))["perceptual"].mean()
    without = perceptual()(make_step(predicted[[0, 2]], images[[0, 2]], labels[[0, 2]]))["perceptual"].mean()
    torch.testing.assert_close(gated, without * 2 / 3)
    gated.backward()
    assert predicted.grad is not None
    assert predicted.grad.flatten(1).abs().amax(1).gt(0).tolist() == [True, False, True]


# -------------------------------------------------------------------------------------------------------------- hybrid


def naive(
    generated: torch.Tensor, real: torch.Tensor, labels: torch.Tensor, tau_gate: float, tau_repulsion: float
) -> torch.Tensor:
    """The definition, class by class and sample by sample."""
    g, r = F.normalize(generated, dim=1), F.normalize(real, dim=1)
    losses = []
    for label in labels.unique():
        rows = [i for i in range(len(labels)) if labels[i] == label]
        errors = []
        for i in rows:
            s = torch.exp(-(g[i] - r[i]).square().sum() / tau_gate)
            drift = s * (r[i] - g[i])
            mates = [j for j in rows if j != i]
            if mates:
                k = torch.stack([torch.exp(-(g[i] - g[j]).square().sum() / tau_repulsion) for j in mates])
                k = k / k.sum().clamp_min(1e-8)
                drift = drift - (1 - s) * (k @ g[mates] - g[i])
            errors.append((g[i] - (g[i] + drift).detach()).square().mean())
        losses.append(torch.stack(errors).mean())
    return torch.stack(losses).mean()


@settings(deadline=None, max_examples=30)  # the loops are slow, and the first call takes long
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=7), width=st.integers(2, 7))
@example(labels=[0, 0, 0, 1, 1, 4], width=6)
@example(labels=[3], width=2)
def test_hybrid_equals_its_definition_looped_over_classes(labels: list[int], width: int) -> None:
    generator = torch.Generator().manual_seed(len(labels) * 10 + width)
    generated, real = torch.randn(2, len(labels), width, generator=generator)
    classes = torch.tensor(labels)
    ours, theirs = generated.clone().requires_grad_(), generated.clone().requires_grad_()
    loss, expected = hybrid_loss(ours, real, classes), naive(theirs, real, classes, 10.0, 0.2)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, theirs)[0]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)  # float32 after two different orders of summing


def test_order_of_the_samples_does_not_matter() -> None:
    generated, real = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 1, 0, 2])
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    torch.testing.assert_close(
        hybrid_loss(generated[order], real[order], labels[order]), hybrid_loss(generated, real, labels)
    )


def test_classes_do_not_influence_each_other() -> None:
    generated, real = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 1, 1, 1])
    zeros, ones = labels == 0, labels == 1
    apart = [hybrid_loss(generated[rows], real[rows], labels[rows]) for rows in (zeros, ones)]
    torch.testing.assert_close(hybrid_loss(generated, real, labels), (apart[0] + apart[1]) / 2)


def test_only_directions_count() -> None:
    generated, real = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(hybrid_loss(7 * generated, 0.3 * real, labels), hybrid_loss(generated, real, labels))


def test_a_lone_sample_at_its_clean_image_is_at_rest() -> None:
    vector = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    assert hybrid_loss(vector, vector, torch.tensor([3])).item() == 0


def test_the_clean_images_get_no_gradient() -> None:
    generated, real = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = hybrid_loss(generated, real, torch.tensor([0, 0, 1, 1]))
    gradients = torch.autograd.grad(loss, (generated, real), allow_unused=True)
    assert gradients[0].abs().max() > 0
    assert gradients[1] is None


def test_it_is_computed_in_float32_under_autocast() -> None:
    generated, real = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = hybrid_loss(generated, real, labels)
    assert torch.equal(mixed, hybrid_loss(generated, real, labels))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_hybrid_compares_the_chosen_vectors_of_predicted_and_clean_image(pooling: str) -> None:
    predicted, images, labels = images_of(0, 0, 1, 1)
    ours, theirs = (SOURCE(x).pooled if pooling == "cls" else SOURCE(x).tokens.mean(1) for x in (predicted, images))
    actual = hybrid(pooling=pooling, tau_gate=1.0, tau_repulsion=3.0, attraction=0.5, repulsion=2.0)(
        make_step(predicted, images, labels)
    )
    weights = {"tau_gate": 1.0, "tau_repulsion": 3.0, "attraction": 0.5, "repulsion": 2.0}
    torch.testing.assert_close(actual["hybrid"].mean(), hybrid_loss(ours, theirs, labels, **weights))


def test_hybrid_gradient_reaches_the_predicted_image() -> None:
    predicted, images, labels = images_of(0, 0, 1)
    predicted.requires_grad_()
    hybrid()(make_step(predicted, images, labels))["hybrid"].mean().backward()
    assert predicted.grad is not None
    assert predicted.grad.flatten(1).abs().amax(1).min() > 0


def test_hybrid_declares_that_it_needs_whole_groups() -> None:
    assert Hybrid.grouped
    assert Hybrid.couples_batch
    assert not Perceptual.couples_batch


def test_default_weights_are_those_of_the_paper() -> None:
    assert Hybrid.Config().weight == 10
    assert Perceptual.Config().weight == 0.01
