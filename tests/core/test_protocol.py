"""Which scores may be compared, and what they may be called."""

import attrs
import pytest

from vco.errors import UserError
from vco.evaluation.protocol import Protocol, comparable, differences, require_comparable

PROTOCOL = Protocol(
    score="FD (inception)",
    settings={},
    encoder="inception",
    encoder_settings={},
    weights="a" * 64,
    image_shape=(3, 256, 256),
    images=50_000,
    labels="balanced",
    reference="b" * 64,
    reference_images=None,
)


def scored(**changes: object) -> dict[str, object]:
    """A score as plain data, measured by another protocol."""
    return {"metric": "FD (inception)", "value": 2.0, "protocol": attrs.evolve(PROTOCOL, **changes).plain()}


def test_scores_that_were_measured_alike_are_comparable() -> None:
    assert comparable(scored(), scored() | {"value": 3.0})
    require_comparable(scored(), scored())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": 1000}, "images: 50000 and 1000"),
        ({"weights": "c" * 64}, "weights: aaaaaaaaaaaa and cccccccccccc"),
        ({"reference": "c" * 64}, "reference: bbbbbbbbbbbb and cccccccccccc"),
        ({"reference_images": 10}, "reference_images: nothing and 10"),
        ({"labels": "data"}, "labels: balanced and data"),
        ({"image_shape": (3, 64, 64)}, r"image_shape: \[3, 256, 256\] and \[3, 64, 64\]"),
        (
            {"encoder": "dinov2", "score": "FD (dinov2)"},
            r"score: FD \(inception\) and FD \(dinov2\); encoder: inception",
        ),
        ({"settings": {"neighbours": 3}}, "settings.neighbours: nothing and 3"),
        ({"encoder_settings": {"resolution": 224}}, "encoder_settings.resolution: nothing and 224"),
    ],
)
def test_scores_that_were_measured_otherwise_are_refused_with_the_difference(
    change: dict[str, object], said: str
) -> None:
    assert not comparable(scored(), scored(**change))
    with pytest.raises(UserError, match=f"cannot be compared, because they were not measured alike: .*{said}"):
        require_comparable(scored(), scored(**change))


def test_where_a_label_law_is_unknown_the_option_that_says_it_is_named() -> None:
    assert differences(scored(), scored(labels="unknown"))[-1].endswith("with --labels, if you know it")


def test_a_score_that_does_not_say_how_it_was_measured_is_comparable_with_none() -> None:
    old = {"metric": "FD (inception)", "value": 2.0}
    assert not comparable(old, old)
    assert differences(old, scored()) == ["one of them does not say how it was measured"]


def test_the_hash_is_that_of_the_content_whatever_the_order() -> None:
    reordered = attrs.evolve(PROTOCOL, settings={"a": 1, "b": 2}), attrs.evolve(PROTOCOL, settings={"b": 2, "a": 1})
    assert reordered[0].hash == reordered[1].hash != PROTOCOL.hash
    assert len(PROTOCOL.hash) == 16


@pytest.mark.parametrize(
    ("encoder", "images", "title"),
    [
        ("inception", 50_000, "FID-50k"),
        ("inception", 1000, "FID-1k"),
        ("inception", 49_999, "FID-49999"),
        ("dinov2", 50_000, "FD-50k (dinov2)"),
        ("digits-cnn", 297, "FD-297 (digits-cnn)"),
    ],
)
def test_fid_is_what_inception_sees_and_says_how_many_images(encoder: str, images: int, title: str) -> None:
    protocol = attrs.evolve(PROTOCOL, score=f"FD ({encoder})", encoder=encoder, images=images)
    assert protocol.title == title
    assert bool(protocol.warnings()) == (encoder == "inception" and images < 50_000)


def test_other_scores_keep_their_names_and_few_images_are_said_too() -> None:
    protocol = attrs.evolve(PROTOCOL, score="KID (inception)", images=1000)
    assert protocol.title == "KID (inception)"
    assert protocol.warnings() == [
        "KID (inception) of 1,000 images is not comparable with published scores, which have 50,000"
    ]
