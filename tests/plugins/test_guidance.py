"""Guidance: what training hides, what sampling evaluates, and how branches are combined."""

from typing import Any

import pytest
import torch

from vco.api import FEATURES, IMAGE, Condition, Guidance, GuidanceSetting, StreamSpec, UserError
from vco_plugins.guidance.autoguidance import Autoguidance
from vco_plugins.guidance.cfg import CFG
from vco_plugins.guidance.representation import Representation
from vco_plugins.guidance.structural import Structural

KINDS = [CFG, Structural]
NULL = 7
LABELS = torch.tensor([0, 3, 6])
both = pytest.mark.parametrize("kind", KINDS)
every = pytest.mark.parametrize("kind", [*KINDS, Autoguidance, Representation])


def setting(*streams: str) -> GuidanceSetting:
    return GuidanceSetting(streams={name: StreamSpec(shape=(1,)) for name in streams}, num_classes=NULL)


def make(kind: Any, **options: Any) -> Guidance:
    return kind(kind.Config(**options), setting(IMAGE, FEATURES))


def at(t: float, features: float | None = None) -> dict[str, float]:
    return {IMAGE: t, FEATURES: t if features is None else features}


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
    assert torch.equal(condition.blocked[IMAGE, FEATURES], dropped)
    assert torch.equal(condition.supervised[FEATURES], ~dropped)
    assert set(condition.blocked) == {(IMAGE, FEATURES)}
    assert set(condition.supervised) == {FEATURES}


def test_symmetric_structural_also_blocks_pixel_keys_from_the_features() -> None:
    _, condition = train(make(Structural, drop=0.5, symmetric=True))
    assert torch.equal(condition.blocked[FEATURES, IMAGE], condition.blocked[IMAGE, FEATURES])


# ------------------------------------------------------------------------------------- label and features by themselves


def hidden(condition: Condition, null: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that lack the label, and those that lack the features."""
    rows = condition.blocked[IMAGE, FEATURES] if null == "mask" else condition.nulled[FEATURES]
    return condition.labels == NULL, rows


nulls = pytest.mark.parametrize("null", ["mask", "zero", "learned"])


@nulls
def test_label_and_features_are_dropped_by_draws_of_their_own(null: str) -> None:
    _, condition = train(make(Structural, null=null, drop=0.0, drop_label=0.1, drop_features=0.2))
    no_label, no_features = hidden(condition, null)
    # five standard errors of 4,000 draws
    assert no_label.float().mean().item() == pytest.approx(0.1, abs=0.024)
    assert no_features.float().mean().item() == pytest.approx(0.2, abs=0.032)
    assert (no_label & no_features).float().mean().item() == pytest.approx(0.02, abs=0.011)
    assert torch.equal(condition.supervised[FEATURES], ~no_features)


@nulls
def test_what_is_dropped_together_is_dropped_whatever_is_drawn_by_itself(null: str) -> None:
    joint, more = (
        hidden(train(make(Structural, null=null, drop=0.3, drop_label=label))[1], null) for label in (0.0, 0.5)
    )
    assert torch.equal(joint[0], joint[1])
    assert torch.equal(more[1], joint[1])
    assert more[0][joint[0]].all()
    assert not torch.equal(more[0], joint[0])


@both
def test_rows_that_lack_the_label_are_those_of_one_draw_of_uniform_numbers(kind: Any) -> None:
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(train(make(kind, drop=0.3))[1].labels == NULL, draws < 0.3)


def test_a_null_branch_that_lacks_the_label_alone_sees_the_features() -> None:
    guidance = make(Structural, drop=0.0, drop_label=0.1, drop_features=0.2, label_only=True)
    null = guidance.branches(LABELS, at(0.5))["null"]
    assert null.labels.tolist() == [NULL] * 3
    assert not null.blocked
    assert not null.nulled


def test_a_null_branch_that_training_never_shows_is_refused() -> None:
    with pytest.raises(ValueError, match="label_only needs drop_label above 0"):
        Structural.Config(label_only=True)


def test_a_learned_null_starts_at_zero() -> None:
    guidance = make(Structural, null="learned")
    assert not any(parameter.any() for parameter in guidance.parameters())
    assert len(list(guidance.parameters())) == 1


# ---------------------------------------------------------------------------------------------------------- in sampling


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
    assert {edge: rows.tolist() for edge, rows in blocked.items()} == {(IMAGE, FEATURES): [True] * 3}


@both
def test_every_stream_is_guided_by_its_own_scale_within_the_interval(kind: Any) -> None:
    guidance = make(kind, scale=3.0, feature_scale=2.0, low=0.2, high=0.8)
    conditional = {IMAGE: torch.full((1, 3, 2, 2), 5.0), FEATURES: torch.full((1, 4, 2), 5.0)}
    null = {name: torch.full_like(v, 4.0) for name, v in conditional.items()}
    branches = {"conditional": conditional, "null": null}

    def values(times: dict[str, float]) -> tuple[float, float]:
        combined = guidance.combine(branches, times)
        return combined[IMAGE].unique().item(), combined[FEATURES].unique().item()

    assert values(at(0.5)) == (7.0, 6.0)
    assert values(at(0.5, features=0.8)) == (7.0, 5.0)
    assert values(at(0.2, features=0.5)) == (5.0, 6.0)


@every
def test_a_stream_may_have_an_interval_of_its_own(kind: Any) -> None:
    guidance = make(kind, scale=3.0, low=0.0, stream_low={FEATURES: 0.06}, stream_high={FEATURES: 0.9})
    velocities = {name: torch.full((1, 4, 2), 5.0) for name in (IMAGE, FEATURES)}
    null = {name: torch.full_like(v, 4.0) for name, v in velocities.items()}
    name = "weak" if kind is Autoguidance else "null"

    def guided(t: float, features: float) -> tuple[bool, bool]:
        combined = guidance.combine({"conditional": velocities, name: null}, at(t, features))
        return bool((combined[IMAGE] != 5.0).all()), bool((combined[FEATURES] != 5.0).all())

    assert guided(0.0, 0.0) == (True, False)
    assert guided(0.05, 0.05) == (True, False)
    assert guided(0.07, 0.07) == (True, True)
    assert guided(0.95, 0.95) == (True, False)
    assert name not in guidance.branches(LABELS, at(1.0, features=0.95))


@every
def test_an_interval_of_a_stream_that_is_not_there_is_refused(kind: Any) -> None:
    with pytest.raises(UserError, match=r"--guidance.stream-low: .* no stream latents, only image, features"):
        make(kind, stream_low={"latents": 0.5})


@every
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream_high": {FEATURES: 0.1}}, r"features would end at 0.1, not above its start \(0.1\)"),
        ({"stream_low": {FEATURES: 0.9}, "high": 0.8}, r"features would end at 0.8, not above its start \(0.9\)"),
        ({"stream_low": {FEATURES: 1.5}}, "stream_low"),
    ],
)
def test_impossible_intervals_of_a_stream_are_refused(kind: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind.Config(**options)


@both
def test_without_a_null_branch_the_conditional_velocity_is_returned_to_the_bit(kind: Any) -> None:
    velocity = {IMAGE: torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))}
    combined = make(kind).combine({"conditional": velocity}, {IMAGE: 0.05})
    assert torch.equal(combined[IMAGE], velocity[IMAGE])


@both
def test_feature_scale_defaults_to_the_scale_of_the_image(kind: Any) -> None:
    one, zero = torch.ones(1, 4, 2), torch.zeros(1, 4, 2)
    combined = make(kind, scale=2.5).combine({"conditional": {FEATURES: one}, "null": {FEATURES: zero}}, at(0.5))
    assert torch.equal(combined[FEATURES], 2.5 * one)


def test_structural_refuses_a_run_without_features() -> None:
    with pytest.raises(UserError, match="features"):
        Structural(Structural.Config(), setting(IMAGE))


def test_only_structural_needs_a_backbone_that_blocks_attention() -> None:
    assert make(Structural).needs_blocking
    assert not make(Structural, null="zero").needs_blocking
    assert not CFG.needs_blocking


@both
@pytest.mark.parametrize("options", [{"low": 0.8, "high": 0.2}, {"drop": 1.1}, {"scale": -1.0}, {"high": 1.5}])
def test_impossible_settings_are_refused(kind: Any, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(reversed(options))):
        kind.Config(**options)


@every
def test_a_closed_interval_has_its_ends(kind: Any) -> None:
    for closed in (False, True):
        guidance = make(kind, scale=2.0, low=0.2, high=0.8, closed=closed)
        for t in (0.2, 0.8):
            assert (len(guidance.branches(LABELS, at(t))) == 2) == closed
        assert len(guidance.branches(LABELS, at(0.5))) == 2
        assert len(guidance.branches(LABELS, at(0.9))) == 1


def test_representation_guidance_may_hide_clean_features_and_those_of_whole_batches() -> None:
    guidance = make(Representation, drop=0.5, whole_batch=True, hides="clean")
    assert guidance.nulls_clean
    assert not make(Representation).nulls_clean
    seen: set[bool] = set()
    for seed in range(20):
        rows = guidance.condition(LABELS, torch.Generator().manual_seed(seed)).nulled[FEATURES]
        assert len(rows) == len(LABELS)
        assert rows.all() or not rows.any()
        seen.add(bool(rows.any()))
    assert seen == {True, False}


def test_the_weak_model_may_wait_for_clean_features() -> None:
    guidance = make(Autoguidance, scale=2.0, low=0.0, when="features-given", label=False)
    assert set(guidance.branches(LABELS, at(0.0, features=0.5))) == {"conditional", "null"}
    assert set(guidance.branches(LABELS, at(0.5, features=1.0))) == {"conditional", "weak"}
    velocity = {name: torch.full((3, 1), value) for name, value in ((IMAGE, 1.0), (FEATURES, 3.0))}
    none = {name: torch.zeros(3, 1) for name in velocity}
    guided = guidance.combine({"conditional": velocity, "null": none}, at(0.0, features=0.5))
    assert torch.equal(guided[IMAGE], 2 * velocity[IMAGE])
