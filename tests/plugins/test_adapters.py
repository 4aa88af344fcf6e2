"""Adapters: what they make of features, what they fit, and where gradients go."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from vco.api import FEATURES, Adapted, Adapter, AdapterSetting, Features, FeatureSpec, StreamSpec, UserError
from vco_plugins.adapters.coredi import CoReDi
from vco_plugins.adapters.identity import Identity
from vco_plugins.adapters.rms import RMS

Batch = tuple[Tensor, Features]
SPEC = FeatureSpec(tokens=(4, 6), grid=(2, 2))
IMAGE_SPEC = StreamSpec(shape=(3, 8, 8))
ENCODER = "an-encoder"


def setting(spec: FeatureSpec = SPEC) -> AdapterSetting:
    return AdapterSetting(features={ENCODER: spec}, image=IMAGE_SPEC)


def fit(adapter: Adapter, *batches: Batch) -> None:
    adapter.fit((images, {ENCODER: features}) for images, features in batches)


def draw(batch: int, spec: FeatureSpec = SPEC, seed: int = 0) -> Batch:
    """Images in [-1, 1] and correlated features whose scale and mean differ by channel and position."""
    generator = torch.Generator().manual_seed(seed)
    tokens, width = spec.tokens
    mixing = torch.randn(width, width, generator=generator)
    scale, mean = torch.rand(2, tokens, width, generator=generator)
    z = 10 * mean + (0.5 + scale) * (torch.randn(batch, tokens, width, generator=generator) @ mixing)
    images = torch.rand(batch, 3, 8, 8, generator=generator) * 1.2 - 0.4
    return images, Features(tokens=z, grid=spec.grid, pooled=z.mean(1))


def rows(batch: Batch, index: Any) -> Batch:
    images, features = batch
    return images[index], Features(tokens=features.tokens[index], grid=features.grid, pooled=features.pooled[index])


def coredi(spec: FeatureSpec = SPEC, **options: Any) -> CoReDi:
    options = {"channels": 3} | options
    torch.manual_seed(0)
    return CoReDi(CoReDi.Config(**options), setting(spec))


def rms(scale: float | None = None) -> RMS:
    return RMS(RMS.Config(scale=scale), setting())


def stream(adapter: Adapter, batch: Batch) -> Tensor:
    return adapter({ENCODER: batch[1]}).value[FEATURES]


# ------------------------------------------------------------------------------------------------------------- none


def test_identity_hands_the_tokens_through() -> None:
    batch = draw(3)
    adapted = Identity(Identity.Config(), setting())({ENCODER: batch[1]})
    assert torch.equal(adapted.value[FEATURES], batch[1].tokens)
    assert torch.equal(adapted.target[FEATURES], batch[1].tokens)


def test_identity_is_idle_in_a_run_without_encoders() -> None:
    adapter = Identity(Identity.Config(), AdapterSetting(features={}, image=IMAGE_SPEC))
    assert adapter.specs() == {}
    adapted = adapter({})
    assert not adapted.value
    assert not adapted.target


@pytest.mark.parametrize(("kind", "options"), [(Identity, {}), (RMS, {}), (CoReDi, {"channels": 3})])
def test_an_adapter_reads_the_encoder_that_it_is_told_to_read(kind: Any, options: dict[str, int]) -> None:
    wide = FeatureSpec(tokens=(9, 12), grid=(3, 3))
    both = AdapterSetting(features={ENCODER: SPEC, "another": wide}, image=IMAGE_SPEC)
    (_, first), (_, second) = draw(3), draw(3, wide)
    for name, spec in (("", SPEC), (ENCODER, SPEC), ("another", wide)):
        adapter = kind(kind.Config(features=name, **options), both)
        (value,) = adapter({ENCODER: first, "another": second}).value.values()
        assert value.shape[1] == spec.tokens[0]
        assert adapter.specs()[FEATURES].grid == spec.grid
    with pytest.raises(UserError, match="an-encoder, another"):
        kind(kind.Config(features="a-third", **options), both)


def test_only_identity_is_of_use_without_a_feature_stream() -> None:
    assert not Identity.needs_stream
    assert RMS.needs_stream
    assert CoReDi.needs_stream


# --------------------------------------------------------------------------------------------------------------- rms


def test_rms_standardises_every_channel_at_every_position() -> None:
    adapter, batch = rms(scale=1.0), draw(50)
    fit(adapter, batch)
    fitted = stream(adapter, batch)
    # float32 rounding of values around 10, and eps = 1e-5 in the variance
    torch.testing.assert_close(fitted.mean(0), torch.zeros(4, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(fitted.std(0, correction=0), torch.ones(4, 6), rtol=0, atol=1e-4)


def test_rms_gives_the_stream_the_rms_of_the_image() -> None:
    adapter, batch = rms(), draw(50)
    fit(adapter, batch)
    image, features = batch[0].square().mean().sqrt(), stream(adapter, batch).square().mean().sqrt()
    torch.testing.assert_close(features, image, rtol=1e-4, atol=0)  # eps = 1e-5 in the variance


def test_rms_takes_a_given_scale_in_place_of_the_image() -> None:
    adapter, batch = rms(scale=0.485), draw(50)
    fit(adapter, batch)
    assert stream(adapter, batch).square().mean().sqrt().item() == pytest.approx(0.485, rel=1e-4)


def test_rms_of_a_constant_channel_is_zero() -> None:
    images, features = draw(8)
    features.tokens[:, 1, 2] = 3.0
    adapter = rms()
    fit(adapter, (images, features))
    assert torch.equal(stream(adapter, (images, features))[:, 1, 2], torch.zeros(8))


def test_rms_keeps_its_precision_where_the_mean_dwarfs_the_spread() -> None:
    images, features = draw(64)
    tokens = features.tokens.double()
    far = Features(tokens=(tokens + 1e4).float(), grid=(2, 2), pooled=features.pooled)
    adapter = rms()
    fit(adapter, rows((images, far), slice(0, 30)), rows((images, far), slice(30, 64)))
    # float32 features around 1e4 are themselves only exact to 1e-3, about 1e-4 of the spread each
    torch.testing.assert_close(adapter.variance, tokens.var(0, correction=0).float(), rtol=1e-3, atol=0)


def test_rms_survives_a_state_dict_round_trip() -> None:
    batch = draw(8)
    fitted, fresh = rms(), rms()
    fit(fitted, batch)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(stream(fresh, batch), stream(fitted, batch))


@pytest.mark.parametrize("adapter", [rms, lambda: coredi(init="pca")])
def test_fit_does_not_depend_on_batching_or_order(adapter: Any) -> None:
    batch = draw(32)
    once, split = adapter(), adapter()
    fit(once, batch)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    fit(split, *(rows(batch, part) for part in order.split([1, 20, 4, 7])))
    for name, value in once.state_dict().items():
        # accumulated in float64, so that only the last bit of float32 may differ
        torch.testing.assert_close(split.state_dict()[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("adapter", [rms, lambda: coredi(init="pca"), lambda: coredi(vf=0.1)])
def test_adapters_do_not_modify_features(adapter: Any) -> None:
    batch, untouched = draw(8), draw(8)
    instance = adapter()
    if instance.needs_fit:
        fit(instance, batch)
    instance({ENCODER: batch[1]})
    assert torch.equal(batch[1].tokens, untouched[1].tokens)


# ------------------------------------------------------------------------------------------------------------ CoReDi


@settings(deadline=None)  # the first call takes long
@given(batch=st.integers(2, 6), tokens=st.integers(1, 4), width=st.integers(2, 6), channels=st.integers(1, 4))
@example(batch=4, tokens=4, width=4, channels=4)
def test_coredi_projects_then_batch_normalises_over_samples_and_tokens(
    batch: int, tokens: int, width: int, channels: int
) -> None:
    channels = min(channels, width)
    spec = FeatureSpec(tokens=(tokens, width), grid=(1, tokens))
    adapter, features = coredi(spec, channels=channels), draw(batch, spec)[1]
    projected = features.tokens @ adapter.projection
    expected = F.batch_norm(projected.flatten(0, 1), None, None, training=True, eps=1e-5)
    # means around 10 leave float32 with about 1e-6 of the spread; small spreads occur
    torch.testing.assert_close(
        adapter({ENCODER: features}).value[FEATURES], expected.view(batch, tokens, channels), rtol=1e-3, atol=1e-3
    )
    assert adapter.specs()[FEATURES] == StreamSpec(shape=(tokens, channels), grid=(1, tokens))


def test_coredi_tracks_the_statistics_that_batch_norm_tracks() -> None:
    adapter = coredi()
    norm = torch.nn.BatchNorm1d(3, affine=False)
    for seed in range(3):
        features = draw(5, seed=seed)[1]
        adapter({ENCODER: features})
        norm((features.tokens @ adapter.projection).flatten(0, 1).detach())
    torch.testing.assert_close(adapter.running_mean, norm.running_mean)
    torch.testing.assert_close(adapter.running_var, norm.running_var)


def test_coredi_in_eval_mode_uses_running_statistics_row_by_row() -> None:
    adapter, batch = coredi(), draw(5)
    stream(adapter, batch)
    adapter.eval()
    before = adapter.running_mean.clone()
    together, alone = stream(adapter, batch), stream(adapter, rows(batch, slice(2, 3)))
    expected = (batch[1].tokens @ adapter.projection - before) / (adapter.running_var + 1e-5).sqrt()
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(alone, together[2:3])
    assert torch.equal(adapter.running_mean, before)


def test_coredi_target_carries_no_gradient_and_its_value_does() -> None:
    adapted = coredi()({ENCODER: draw(5)[1]})
    assert not adapted.target[FEATURES].requires_grad
    assert adapted.value[FEATURES].requires_grad
    assert torch.equal(adapted.value[FEATURES], adapted.target[FEATURES])


def test_gradient_through_the_value_turns_but_does_not_stretch_the_projection() -> None:
    """Batch norm makes the stream independent of each column's length, so the gradient is orthogonal to the column."""
    adapter, batch = coredi(ortho=0.0, cov=0.0), draw(5)
    adapted = adapter({ENCODER: batch[1]})
    weight = torch.randn(adapted.value[FEATURES].shape, generator=torch.Generator().manual_seed(1))
    (adapted.value[FEATURES] * weight).sum().backward()
    gradient, columns = adapter.projection.grad, adapter.projection.detach()
    assert gradient is not None
    assert gradient.norm(dim=0).min() > 0
    cosine = F.cosine_similarity(gradient, columns, dim=0)
    torch.testing.assert_close(cosine, torch.zeros(3), rtol=0, atol=1e-4)  # but for float32 and eps


def test_scale_is_the_standard_deviation_of_the_stream() -> None:
    value = stream(coredi(scale=0.5), draw(20))
    torch.testing.assert_close(value.std((0, 1), correction=0), torch.full((3,), 0.5), rtol=1e-4, atol=0)


def losses(adapter: CoReDi, features: Features | None = None) -> dict[str, float]:
    return {name: loss.item() for name, loss in adapter({ENCODER: features or draw(20)[1]}).losses.items()}


def test_orthogonal_columns_cost_nothing_whatever_their_length() -> None:
    adapter = coredi(ortho=0.5, cov=0.0)
    adapter.projection.data = 3 * torch.eye(6)[:, :3]
    assert losses(adapter) == {"ortho": 0.0}


def test_collapsed_channels_cost_the_full_weight_of_cov_and_their_share_of_ortho() -> None:
    adapter = coredi(ortho=0.5, cov=0.25)
    adapter.projection.data = torch.ones(6, 1) * torch.tensor([1.0, 2.0, -3.0])
    # six of the nine entries of N'N are off the diagonal, all +-1
    assert losses(adapter) == pytest.approx({"ortho": 0.5 * 6 / 9, "cov": 0.25}, rel=1e-4)


def test_cov_is_the_mean_squared_correlation_of_different_channels() -> None:
    adapter, features = coredi(ortho=0.0, cov=1.0), draw(20)[1]
    correlation = torch.corrcoef((features.tokens @ adapter.projection).detach().flatten(0, 1).T)
    expected = correlation.square().sum() - 3
    assert losses(adapter, features)["cov"] == pytest.approx((expected / 6).item(), rel=1e-3)


def test_vf_equals_its_definition_looped_over_tokens() -> None:
    adapter, features = coredi(ortho=0.0, cov=0.0, vf=0.1), draw(3)[1]
    assert adapter.lift is not None
    adapted = adapter({ENCODER: features})
    lifted, tokens = adapted.value[FEATURES] @ adapter.lift, features.tokens

    def cosine(x: Tensor, y: Tensor) -> Tensor:
        return x @ y / (x.norm() * y.norm())

    pairs, singles = [], []
    for ours, theirs in zip(lifted, tokens, strict=True):
        for i in range(4):
            singles.append(F.relu(1 - 0.5 - cosine(ours[i], theirs[i])))
            for j in range(4):
                difference = cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j])
                pairs.append(F.relu(difference.abs() - 0.25))
    expected = 0.1 * (torch.stack(pairs).mean() + torch.stack(singles).mean())
    assert expected > 0
    torch.testing.assert_close(adapted.losses["vf"], expected, rtol=1e-4, atol=0)


def test_the_lift_exists_only_where_vf_counts() -> None:
    assert "lift" not in dict(coredi().named_parameters())
    assert "lift" in dict(coredi(vf=0.1).named_parameters())


def test_regularisers_separate_channels_that_have_collapsed() -> None:
    adapter, batch = coredi(ortho=0.0, cov=1.0), draw(50)
    adapter.projection.data = torch.ones(6, 3) + 0.05 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    stream(adapter, batch)
    before = adapter.metrics()["effective_rank"].item()
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        sum(adapter({ENCODER: batch[1]}).losses.values(), torch.zeros(())).backward()
        optimizer.step()
    assert before < 1.5
    assert adapter.metrics()["effective_rank"].item() > 2.9


def test_metrics_of_equal_channels_show_rank_one() -> None:
    adapter = coredi()
    adapter.projection.data = torch.ones(6, 1) * torch.tensor([1.0, 2.0, -3.0])
    stream(adapter, draw(20))
    metrics = {name: value.item() for name, value in adapter.metrics().items()}
    metrics.pop("projected_std")
    assert metrics == pytest.approx(
        {"effective_rank": 1.0, "column_norm_min": 6**0.5, "column_norm_max": 3 * 6**0.5, "off_diagonal_max": 1.0},
        rel=1e-3,
    )


def test_metrics_tell_the_scale_before_batch_norm() -> None:
    adapter, batch = coredi(init="pca"), draw(50)
    fit(adapter, batch)
    projected = (batch[1].tokens @ adapter.projection).detach().flatten(0, 1)
    torch.testing.assert_close(adapter.metrics()["projected_std"], projected.var(0, correction=0).mean().sqrt())


def test_pca_start_makes_the_channels_uncorrelated_and_of_falling_variance() -> None:
    adapter, batch = coredi(init="pca"), draw(50)
    assert adapter.needs_fit
    fit(adapter, batch)
    projected = (batch[1].tokens @ adapter.projection).detach().flatten(0, 1)
    covariance = projected.T.cov(correction=0)
    variances = torch.linalg.eigvalsh(batch[1].tokens.flatten(0, 1).T.cov(correction=0)).flip(0)[:3]
    # float32 rounding of values around 100
    torch.testing.assert_close(covariance, variances.diag(), rtol=1e-4, atol=1e-3)


def test_pca_directions_have_a_fixed_sign() -> None:
    adapter = coredi(init="pca")
    for seed in range(3):
        fit(adapter, draw(50, seed=seed))
        largest = adapter.projection.gather(0, adapter.projection.abs().argmax(0, keepdim=True))
        assert largest.min() > 0


def test_pca_start_already_has_the_statistics_of_eval_mode() -> None:
    adapter, batch = coredi(init="pca"), draw(50)
    fit(adapter, batch)
    evaluated, trained = stream(adapter.eval(), batch), stream(adapter.train(), batch)
    # float32 rounding of values around 10
    torch.testing.assert_close(evaluated, trained, rtol=1e-3, atol=1e-4)


def test_random_start_needs_no_fit_and_has_columns_of_about_unit_length() -> None:
    adapter = coredi(FeatureSpec(tokens=(4, 768), grid=(2, 2)), channels=8)
    assert not adapter.needs_fit
    # the length of 768 normals of variance 1/768 is 1 +- 0.026
    torch.testing.assert_close(adapter.projection.norm(dim=0), torch.ones(8), rtol=0, atol=0.13)


def test_the_projection_has_a_learning_rate_of_its_own_until_it_is_frozen() -> None:
    adapter = coredi(learning_rate_scale=0.25, freeze_after=10)
    assert [adapter.learning_rate_scale(step) for step in (0, 9, 10, 1000)] == [0.25, 0.25, 0.0, 0.0]
    assert coredi().learning_rate_scale(10**9) == 1.0


def test_without_stop_gradient_the_target_is_learned_too() -> None:
    assert coredi(stop_gradient=False)({ENCODER: draw(5)[1]}).target[FEATURES].requires_grad


def test_without_normalisation_the_stream_is_the_bare_projection() -> None:
    adapter, batch = coredi(normalize=False), draw(5)
    torch.testing.assert_close(stream(adapter, batch), batch[1].tokens @ adapter.projection)


def test_more_channels_than_the_features_have_are_refused() -> None:
    with pytest.raises(UserError, match=r"--adapter\.channels 7.*6 channels"):
        coredi(channels=7)


# ------------------------------------------------------------------------------------------------ CoReDi over processes


def share(adapter: CoReDi, features: Features) -> tuple[Adapted, Tensor]:
    """The loss of a share of a batch: a mean over its rows, plus the regularisers."""
    adapted = adapter({ENCODER: features})
    value = adapted.value[FEATURES]
    return adapted, torch.sin(3 * value).mean() + sum(adapted.losses.values(), torch.zeros(()))


def work(rank: int, folder: str) -> None:
    """One of two processes, with half of the batch; what PyTorch is about to take away is an error."""
    warnings.simplefilter("error", FutureWarning)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    adapter, half = coredi(), rows(draw(8), slice(rank * 4, rank * 4 + 4))
    adapted, loss = share(adapter, half[1])
    loss.backward()
    assert adapter.projection.grad is not None
    distributed.all_reduce(adapter.projection.grad)
    result = {
        "value": adapted.value[FEATURES].detach(),
        "gradient": adapter.projection.grad / 2,  # averaged over processes, as data-parallel training does
        "running_mean": adapter.running_mean,
        "running_var": adapter.running_var,
    }
    torch.save(result, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_normalise_and_learn_as_one(tmp_path: Path) -> None:
    spawn(work, args=(str(tmp_path),), nprocs=2)
    adapter, batch = coredi(), draw(8)
    adapted, loss = share(adapter, batch[1])
    loss.backward()
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    # sums in another order, of values around 10
    torch.testing.assert_close(
        torch.cat([half["value"] for half in halves]), adapted.value[FEATURES].detach(), rtol=1e-4, atol=1e-5
    )
    for half in halves:
        torch.testing.assert_close(half["gradient"], adapter.projection.grad, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(half["running_mean"], adapter.running_mean)
        torch.testing.assert_close(half["running_var"], adapter.running_var)
