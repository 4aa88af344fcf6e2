"""The arithmetic of encoders (--train.encoder-precision): docs/performance.md, "Encoders in bfloat16"."""

import re
from pathlib import Path

import pytest
import torch
from objectives import make_run
from torch import Tensor

from vco.api import EncoderPrecision, FeatureSource, Views
from vco.data.reader import to_float

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
RUNS = {
    "digits-vit": ("--data", "digits", "--features", "digits-vit", "--backbone.patch", "2"),
    "clothing-vit": ("--data", "clothing32", "--features", "clothing-vit", "--backbone.patch", "4"),
    "clothing-cnn": (
        "--data", "clothing32", "--features", "clothing-cnn", "--backbone", "jit", "--adapter", "none", "--loss",
        "perceptual", "--guidance", "cfg", "--backbone.patch", "4",
    ),
}  # fmt: skip
COUNT = 64


class Seen:
    """What an encoder says of held-out images and of noisy ones, computed in one way."""

    def __init__(self, source: FeatureSource, images: Tensor, precision: EncoderPrecision) -> None:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        predicted = (images + 0.3 * noise).requires_grad_()
        views = Views({"it": source}, images, precision)
        distance = (views.generated("it", lambda: predicted).pooled - views.real("it").pooled).square().mean()
        with torch.autocast("cpu", enabled=False):  # as in training, where the backward pass comes after it
            (self.gradient,) = torch.autograd.grad(distance, predicted)
        self.tokens, self.pooled = views["it"].tokens, views["it"].pooled


def given(name: str) -> tuple[FeatureSource, Tensor]:
    """An encoder, and images of its data set."""
    run = make_run(*RUNS[name])
    test = run.data.test()
    chosen = torch.linspace(0, len(test) - 1, COUNT).long().tolist()
    return run.objective.sources[name], to_float(torch.stack([test.image(index, None) for index in chosen]))


def off(found: Tensor, expected: Tensor) -> float:
    """Relative distance, in percent."""
    return float((found - expected).norm() / expected.norm()) * 100


@pytest.mark.parametrize("name", list(RUNS))
def test_bf16_agrees_with_fp32_as_the_page_says(name: str) -> None:
    source, images = given(name)
    fine, coarse = Seen(source, images, "fp32"), Seen(source, images, "bf16")
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    for key, stated in zip(("tokens", "pooled", "gradient"), re.findall(r"([\d.]+) %", row), strict=True):
        found = getattr(coarse, key)
        assert found.dtype == torch.float32
        assert 0.2 < off(found, getattr(fine, key)) / float(stated) < 2


def test_either_is_the_same_whatever_surrounds_it() -> None:
    source, images = given("digits-vit")
    outside = {precision: Seen(source, images, precision) for precision in ("auto", "fp32", "bf16")}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = {precision: Seen(source, images, precision) for precision in ("auto", "fp32", "bf16")}
    assert torch.equal(inside["fp32"].gradient, outside["fp32"].gradient)
    assert torch.equal(inside["bf16"].gradient, outside["bf16"].gradient)
    assert torch.equal(outside["auto"].gradient, outside["fp32"].gradient)
    assert torch.equal(inside["auto"].gradient, outside["bf16"].gradient)


def test_a_run_computes_its_encoders_as_the_option_says() -> None:
    assert make_run().objective.encoder_precision == "auto"
    assert make_run("--train.encoder-precision", "bf16").objective.encoder_precision == "bf16"
