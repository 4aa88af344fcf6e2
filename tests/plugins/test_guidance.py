"""Guidance: what training hides, what sampling evaluates, and how branches are combined."""

from typing import Any

import pytest
import torch

from vco.api import FEATURES, PIXELS, Condition, Guidance, StreamSpec, UserError
from vco_plugins.guidance.cfg import CFG
from vco_plugins.guidance.structural import Structural

KINDS = [CFG, Structural]
NULL = 7
LABELS = torch.tensor([0, 3, 6])
both = pytest.mark.parametrize("kind", KINDS)


def specs(*streams: str) -> dict[str, StreamSpec]:
    return {stream: StreamSpec(shape=(1,)) for stream in streams}


def make(kind: Any, **options: Any) -> Guidance:
    return kind(kind.Config(**options), streams=specs(PIXELS, FEATURES), num_classes=NULL)


def at(t: float, features: float | None = None) -> dict[str, float]:
    return {PIXELS: t, FEATURES: t if features is None else features}


def train(guidance: Guidance, batch: int = 4000) -> tuple[torch.Tensor, Condition]:
    labels = torch.arange(batch) % NULL
    return labels, guidance.condition(labels, torch.Generator().manual_seed(0))


@both
def test_labels_are_dropped_at_the_set_rate(kind: Any) -> None:
    _, condition = train(make(kind, drop=0.3))
    # five standard errors of 4,000 draws
    assert (condition.labels == NULL).float().mean().item() == pytest.approx(0.3, abs=0.036)


@both
@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_rates_zero_and_one_are_certain(kind: Any, drop: float) -> None:
    _, condition = train(make(kind, drop=drop))
    assert (condition.labels == NULL).float().mean().item() == drop


@both
def test_labels_that_are_kept_stay_and_the_given_ones_are_not_modified(kind: Any) -> None:
    labels, condition = train(make(kind, drop=0.5))
    assert torch.equal(labels, torch.arange(4000) % NULL)
    kept = condition.labels != NULL
    assert torch.equal(condition.labels[kept], labels[kept])


@both
def test_same_generator_drops_the_same_rows(kind: Any) -> None:
    assert torch.equal(train(make(kind))[1].labels, train(make(kind))[1].labels)


def test_cfg_supervises_every_row_and_blocks_nothing() -> None:
    _, condition = train(make(CFG, drop=0.5))
    assert not condition.supervised
    assert not condition.blocked


def test_structural_drops_label_and_features_together_and_skips_their_feature_loss() -> None:
    _, condition = train(make(Structural, drop=0.5))
    dropped = condition.labels == NULL
    assert torch.equal(condition.blocked[PIXELS, FEATURES], dropped)
    assert torch.equal(condition.supervised[FEATURES], ~dropped)
    assert set(condition.blocked) == {(PIXELS, FEATURES)}
    assert set(condition.supervised) == {FEATURES}


def test_symmetric_structural_also_blocks_pixel_keys_from_the_features() -> None:
    _, condition = train(make(Structural, drop=0.5, symmetric=True))
    assert torch.equal(condition.blocked[FEATURES, PIXELS], condition.blocked[PIXELS, FEATURES])


@both
@pytest.mark.parametrize("t", [0.0, 0.2, 0.8, 1.0])
def test_outside_the_open_interval_only_the_conditional_branch_is_evaluated(kind: Any, t: float) -> None:
    branches = make(kind, low=0.2, high=0.8).branches(LABELS, at(t))
    assert set(branches) == {"conditional"}
    assert torch.equal(branches["conditional"].labels, LABELS)


@both
def test_scale_one_needs_no_null_branch(kind: Any) -> None:
    assert set(make(kind, scale=1.0).branches(LABELS, at(0.5))) == {"conditional"}


@both
def test_one_guided_stream_is_enough_for_a_null_branch(kind: Any) -> None:
    guidance = make(kind, scale=1.0, feature_scale=2.0, low=0.2)
    assert "null" in guidance.branches(LABELS, at(0.1, features=0.3))
    assert "null" not in guidance.branches(LABELS, at(0.3, features=0.1))


@both
def test_null_branch_has_the_null_label_and_the_conditional_branch_the_true_one(kind: Any) -> None:
    branches = make(kind).branches(LABELS, at(0.5))
    assert branches["null"].labels.tolist() == [NULL] * 3
    assert torch.equal(branches["conditional"].labels, LABELS)
    assert not branches["conditional"].blocked


def test_structural_null_branch_hides_the_features_from_the_pixels() -> None:
    blocked = make(Structural).branches(LABELS, at(0.5))["null"].blocked
    assert {edge: rows.tolist() for edge, rows in blocked.items()} == {(PIXELS, FEATURES): [True] * 3}


@both
def test_every_stream_is_guided_by_its_own_scale_within_the_interval(kind: Any) -> None:
    guidance = make(kind, scale=3.0, feature_scale=2.0, low=0.2, high=0.8)
    conditional = {PIXELS: torch.full((1, 3, 2, 2), 5.0), FEATURES: torch.full((1, 4, 2), 5.0)}
    null = {name: torch.full_like(v, 4.0) for name, v in conditional.items()}
    branches = {"conditional": conditional, "null": null}

    def values(times: dict[str, float]) -> tuple[float, float]:
        combined = guidance.combine(branches, times)
        return combined[PIXELS].unique().item(), combined[FEATURES].unique().item()

    assert values(at(0.5)) == (7.0, 6.0)
    assert values(at(0.5, features=0.8)) == (7.0, 5.0)
    assert values(at(0.2, features=0.5)) == (5.0, 6.0)


@both
def test_without_a_null_branch_the_conditional_velocity_is_returned_to_the_bit(kind: Any) -> None:
    velocity = {PIXELS: torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))}
    combined = make(kind).combine({"conditional": velocity}, {PIXELS: 0.05})
    assert torch.equal(combined[PIXELS], velocity[PIXELS])


@both
def test_feature_scale_defaults_to_the_pixels_scale(kind: Any) -> None:
    one, zero = torch.ones(1, 4, 2), torch.zeros(1, 4, 2)
    combined = make(kind, scale=2.5).combine({"conditional": {FEATURES: one}, "null": {FEATURES: zero}}, at(0.5))
    assert torch.equal(combined[FEATURES], 2.5 * one)


def test_structural_refuses_a_run_without_features() -> None:
    with pytest.raises(UserError, match="features"):
        Structural(Structural.Config(), streams=specs(PIXELS), num_classes=NULL)


def test_only_structural_needs_a_backbone_that_blocks_attention() -> None:
    assert make(Structural).needs_blocking
    assert not make(Structural, null="zero").needs_blocking
    assert not CFG.needs_blocking


@both
@pytest.mark.parametrize("options", [{"low": 0.8, "high": 0.2}, {"drop": 1.1}, {"scale": -1.0}, {"high": 1.5}])
def test_impossible_settings_are_refused(kind: Any, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(reversed(options))):
        kind.Config(**options)
