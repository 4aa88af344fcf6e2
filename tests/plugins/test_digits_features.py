"""The two shipped digit networks: as accurate as their files say, frozen, differentiable."""

from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from vco.api import DataSetting, FeatureSetting, UserError
from vco_plugins.data.digits import Digits
from vco_plugins.features.digits_cnn import DigitsCNN
from vco_plugins.features.digits_vit import DigitsViT

Source = DigitsViT | DigitsCNN
both = pytest.mark.parametrize("kind", [DigitsViT, DigitsCNN])
SHAPE = (1, 8, 8)


def made(kind: Any, shape: tuple[int, int, int]) -> Source:
    return kind(kind.Config(), FeatureSetting(image_shape=shape))


def loaded(kind: type[Source]) -> Source:
    source = made(kind, SHAPE)
    source.load()
    return source


def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    test = Digits(Digits.Config(), DataSetting()).test()
    return torch.stack([test.image(index, None) for index in range(len(test))]) / 127.5 - 1, test.labels


@pytest.mark.parametrize(("kind", "name", "limit"), [(DigitsViT, "digits_vit", 400), (DigitsCNN, "digits_cnn", 200)])
def test_held_out_accuracy_is_what_the_weight_file_says(kind: type[Source], name: str, limit: int) -> None:
    resource = files("vco_plugins.features").joinpath(f"{name}.safetensors")
    with as_file(resource) as path:
        assert path.stat().st_size <= limit * 1000
        with safe_open(path, framework="pt") as file:
            said = float(file.metadata()["test_accuracy"])
    images, labels = held_out()
    measured = (loaded(kind).classify(images).argmax(1) == labels).float().mean().item()
    # one digit of 297 may fall the other way under another version's rounding
    assert measured == pytest.approx(said, abs=1.5 / 297)
    assert measured >= 0.98


@both
def test_spec_describes_the_output(kind: type[Source]) -> None:
    source = loaded(kind)
    features = source(torch.rand(3, *SHAPE) * 2 - 1)
    assert features.tokens.shape == (3, *source.spec.tokens)
    assert features.grid == source.spec.grid == (4, 4)


@both
def test_everything_is_frozen_and_stays_in_eval_mode(kind: type[Source]) -> None:
    source = loaded(kind)
    source.train()
    assert not any(parameter.requires_grad for parameter in source.parameters())
    assert not any(module.training for module in source.modules())


@both
def test_gradient_reaches_every_pixel(kind: type[Source]) -> None:
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    features = loaded(kind)(images)
    (features.tokens.square().mean() + features.pooled[:, :7].mean() + features.tokens[..., 0].mean()).backward()
    assert images.grad is not None
    assert (images.grad != 0).all()


@both
@settings(deadline=None, max_examples=5)
@given(batch=st.integers(1, 6))
def test_rows_do_not_influence_each_other(kind: type[Source], batch: int) -> None:
    source = loaded(kind)
    images = torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(batch)) * 2 - 1
    together = source(images)
    for row in range(batch):
        alone = source(images[row : row + 1])
        # float32 products are summed in another order for another batch size
        torch.testing.assert_close(together.tokens[row : row + 1], alone.tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.pooled[row : row + 1], alone.pooled, rtol=1e-4, atol=1e-5)


@both
def test_features_are_float32_under_autocast(kind: type[Source]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = loaded(kind)(torch.zeros(2, *SHAPE, dtype=torch.bfloat16))
    assert features.tokens.dtype == features.pooled.dtype == torch.float32


@both
def test_every_call_gives_the_same_and_leaves_the_images_alone(kind: type[Source]) -> None:
    source, images = loaded(kind), torch.zeros(2, *SHAPE)
    first = source(images).tokens
    assert torch.equal(first, source(images).tokens)
    assert not images.any()


@both
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 16), (1, 8, 9)])
def test_other_image_shapes_are_refused_with_what_fits(kind: type[Source], shape: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match=r"\(1, 8, 8\)"):
        made(kind, shape)


def test_vit_tokens_have_mean_0_and_variance_1() -> None:
    tokens = loaded(DigitsViT)(held_out()[0]).tokens
    # LayerNorm without affine: float32 rounding, and eps 1e-5 beside variances of order 1
    assert tokens.mean(-1).abs().max() < 1e-5
    assert (tokens.var(-1, unbiased=False) - 1).abs().max() < 1e-3


@both
def test_tokens_are_in_row_major_order(kind: type[Source]) -> None:
    source = loaded(kind)
    plain = held_out()[0]
    changed = plain.clone()
    changed[..., :2, 6:] *= -1  # the upper right corner: row 0, column 3 of the 4x4 grid
    change = (source(changed).tokens - source(plain).tokens).square().mean((0, 2))
    assert change[3] > 5 * change[12]  # 12 is the lower left corner, where column-major order would have it


def frechet(one: torch.Tensor, two: torch.Tensor) -> float:
    a, b = one.double().numpy(), two.double().numpy()
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * cross)


def test_cnn_scores_worse_digits_as_farther_away() -> None:
    source, (images, _) = loaded(DigitsCNN), held_out()
    train = Digits(Digits.Config(), DataSetting()).train()
    real = source(torch.stack([train.image(index, None) for index in range(len(train))]) / 127.5 - 1).pooled
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    distances = [frechet(real, source((images + level * noise).clamp(-1, 1)).pooled) for level in (0, 0.3, 0.6, 1.2)]
    assert distances == sorted(distances)
    assert distances[-1] > 10 * distances[0]
