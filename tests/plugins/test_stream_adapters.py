"""Adapters that learn nothing: pca, rms per channel, spatial-norm, class-token."""

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from vco.api import FEATURES, Adapter, AdapterSetting, Features, FeatureSpec, StreamSpec, UserError
from vco_plugins.adapters.class_token import CLASS_TOKEN, ClassToken
from vco_plugins.adapters.pca import PCA
from vco_plugins.adapters.rms import RMS
from vco_plugins.adapters.spatial import SpatialNorm
from vco_plugins.spatial import spatial_norm

Batch = tuple[Tensor, Features]
SPEC = FeatureSpec(tokens=(4, 6), grid=(2, 2))
IMAGE_SPEC = StreamSpec(shape=(3, 8, 8))
ENCODER = "an-encoder"


def setting(spec: FeatureSpec = SPEC) -> AdapterSetting:
    return AdapterSetting(features={ENCODER: spec}, image=IMAGE_SPEC)


def fit(adapter: Adapter, *batches: Batch) -> None:
    adapter.fit((images, {ENCODER: features}) for images, features in batches)


def draw(batch: int, seed: int = 0) -> Batch:
    """Images in [-1, 1] and correlated features whose scale and mean differ by channel and position."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=generator) * torch.tensor([5.0, 1.0, 1.0, 0.5, 3.0, 1.0])
    z = 10 * torch.rand(4, 6, generator=generator) + torch.randn(batch, 4, 6, generator=generator) @ mixing
    images = torch.rand(batch, 3, 8, 8, generator=generator) * 1.2 - 0.4
    return images, Features(tokens=z, grid=(2, 2), pooled=z.mean(1))


def rows(batch: Batch, index: Any) -> Batch:
    images, features = batch
    return images[index], Features(tokens=features.tokens[index], grid=features.grid, pooled=features.pooled[index])


def pca(batch: Batch, **options: Any) -> PCA:
    options = {"channels": 3} | options
    adapter = PCA(PCA.Config(**options), setting())
    fit(adapter, batch)
    return adapter


def stream(adapter: Adapter, batch: Batch) -> Tensor:
    adapted = adapter({ENCODER: batch[1]})
    assert adapted.value is adapted.target or torch.equal(adapted.value[FEATURES], adapted.target[FEATURES])
    return adapted.value[FEATURES]


def standardised(batch: Batch) -> Tensor:
    z = batch[1].tokens.double().flatten(0, 1)
    return (z - z.mean(0)) / z.std(0, correction=0)


# ----------------------------------------------------------------------------------------------------------------- pca


def test_pca_projects_standardised_channels_on_their_principal_directions() -> None:
    batch = draw(50)
    _, values, directions = torch.linalg.svd(standardised(batch), full_matrices=False)
    ours, theirs = stream(pca(batch), batch).double().flatten(0, 1), standardised(batch) @ directions[:3].T
    signs = (ours * theirs).sum(0).sign()
    torch.testing.assert_close(ours, theirs * signs, rtol=0, atol=1e-4)  # float32, and eps = 1e-5 in the variance
    torch.testing.assert_close(ours.square().mean(0), values[:3].square() / 200, rtol=1e-3, atol=0)


def test_pca_agrees_with_scikit_learn() -> None:
    from sklearn import decomposition

    batch = draw(50)
    theirs = torch.tensor(decomposition.PCA(3).fit_transform(standardised(batch).numpy()))
    ours = stream(pca(batch), batch).double().flatten(0, 1)
    torch.testing.assert_close(ours.abs(), theirs.abs(), rtol=0, atol=1e-4)  # up to signs


def test_pca_of_unit_variance_whitens() -> None:
    batch = draw(50)
    white = stream(pca(batch, rescale="unit-variance"), batch).flatten(0, 1)
    torch.testing.assert_close(white.T.cov(correction=0), torch.eye(3), rtol=0, atol=1e-3)  # eps = 1e-5


def test_pca_at_image_rms_keeps_the_ratios_of_the_components() -> None:
    batch = draw(50)
    plain, matched = stream(pca(batch), batch), stream(pca(batch, rescale="image-rms"), batch)
    torch.testing.assert_close(matched.square().mean().sqrt(), batch[0].square().mean().sqrt(), rtol=1e-3, atol=0)
    factor = matched.std() / plain.std()
    torch.testing.assert_close(matched, plain * factor, rtol=1e-3, atol=1e-5)


def test_pca_fit_does_not_depend_on_batching_or_order() -> None:
    batch = draw(32)
    once, split = pca(batch), PCA(PCA.Config(channels=3), setting())
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    fit(split, *(rows(batch, part) for part in order.split([1, 20, 4, 7])))
    # accumulated in float64, so that only the last bits of float32 may differ
    torch.testing.assert_close(stream(split, batch), stream(once, batch), rtol=1e-5, atol=1e-5)


def test_pca_of_a_constant_channel_is_finite() -> None:
    images, features = draw(8)
    features.tokens[:, :, 2] = 3.0
    assert stream(pca((images, features)), (images, features)).isfinite().all()


def test_pca_tells_the_shape_of_its_stream() -> None:
    assert PCA(PCA.Config(channels=2), setting()).specs() == {FEATURES: StreamSpec(shape=(4, 2), grid=(2, 2))}


def test_pca_refuses_more_channels_than_there_are() -> None:
    with pytest.raises(UserError, match=r"--adapter\.channels 7.*6 channels"):
        PCA(PCA.Config(channels=7), setting())


# ----------------------------------------------------------------------------------------------------- rms per channel


def test_rms_per_channel_standardises_over_samples_and_positions() -> None:
    batch = draw(50)
    adapter = RMS(RMS.Config(scale=1.0, per="channel"), setting())
    fit(adapter, rows(batch, slice(0, 20)), rows(batch, slice(20, 50)))
    expected = standardised(batch).float().view(50, 4, 6)
    torch.testing.assert_close(stream(adapter, batch), expected, rtol=0, atol=1e-4)  # float32, and eps = 1e-5


def test_rms_per_channel_keeps_what_positions_differ_in() -> None:
    batch = draw(50)
    adapter = RMS(RMS.Config(scale=1.0, per="channel"), setting())
    fit(adapter, batch)
    assert stream(adapter, batch).mean(0).abs().max() > 0.1


# -------------------------------------------------------------------------------------------------------- spatial-norm


def test_spatial_norm_standardises_over_the_tokens_of_each_image() -> None:
    batch = draw(5)
    fully = stream(SpatialNorm(SpatialNorm.Config(alpha=1.0, scale=0.5), setting()), batch)
    torch.testing.assert_close(fully.mean(1), torch.zeros(5, 6), rtol=0, atol=1e-5)  # float32
    torch.testing.assert_close(fully.std(1), torch.full((5, 6), 0.5), rtol=1e-4, atol=0)


def test_spatial_norm_by_default_is_that_of_irepa() -> None:
    batch = draw(5)
    adapter = SpatialNorm(SpatialNorm.Config(), setting())
    torch.testing.assert_close(stream(adapter, batch), spatial_norm(batch[1].tokens, 0.8))
    assert not adapter.needs_fit


# --------------------------------------------------------------------------------------------------------- class-token


def test_class_token_is_the_raw_pooled_vector() -> None:
    batch = draw(5)
    adapter = ClassToken(ClassToken.Config(), setting())
    adapted = adapter({ENCODER: batch[1]})
    assert list(adapted.value) == list(adapted.target) == list(adapter.specs()) == [CLASS_TOKEN]
    assert torch.equal(adapted.value[CLASS_TOKEN][:, 0], batch[1].pooled)
    assert adapter.specs()[CLASS_TOKEN].shape == adapted.value[CLASS_TOKEN].shape[1:]


def test_class_token_can_come_with_the_patch_tokens() -> None:
    batch = draw(5)
    adapter = ClassToken(ClassToken.Config(tokens=True), setting())
    adapted = adapter({ENCODER: batch[1]})
    assert set(adapted.value) == set(adapter.specs()) == {FEATURES, CLASS_TOKEN}
    assert torch.equal(adapted.value[FEATURES], batch[1].tokens)


def test_class_token_is_as_wide_as_the_pooled_vector() -> None:
    _, features = draw(5)
    narrow = Features(tokens=features.tokens, grid=(2, 2), pooled=features.pooled[:, :4])
    adapter = ClassToken(ClassToken.Config(), setting(attrs.evolve(SPEC, pooled=4)))
    assert adapter.specs()[CLASS_TOKEN].shape == adapter({ENCODER: narrow}).value[CLASS_TOKEN].shape[1:] == (1, 4)
