"""Shapes that a component needs, and how its author says so."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from subjects import law_named, subject

from vco.api import FeatureSpec, StreamSpec, UserError
from vco.testing.examine import case_of, examine, first_settings
from vco.testing.law import ViolationError
from vco.testing.shapes import read_shapes
from vco.testing.sizes import FIXED
from vco.testing.subject import Subject
from vco.testing.table import settings_from


def given(of: Subject, **shapes: str) -> Subject:
    """A subject with shapes that its author gave, as in streams_image="3x8x8"."""
    return attrs.evolve(of, settings={name.replace("_", "."): value for name, value in shapes.items()}, notes={})


def case(of: Subject) -> Any:
    """The first case of a subject."""
    return case_of(of)(subject=of, config=first_settings(of), sizes=FIXED[0])


def test_shapes_are_read_with_the_squarest_grid_or_the_one_that_is_given() -> None:
    shapes = read_shapes(
        {"streams.image": "3x8x12", "streams.features": "16x8", "features.a": (12, 5), "features.b": "12x5@2x6"}
    )
    assert shapes.streams["features"] == StreamSpec(shape=(16, 8), grid=(4, 4))
    assert shapes.features == {
        "a": FeatureSpec(tokens=(12, 5), grid=(3, 4)),
        "b": FeatureSpec(tokens=(12, 5), grid=(2, 6)),
    }
    assert shapes.image_shape == (3, 8, 12)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("streams.image", "16x8", "write streams.image=3x32x32"),
        ("streams.features", "3x8x8", "write streams.image=3x32x32"),
        ("streams.features", "16 x 8", "a shape is written as in 16x8"),
        ("streams.features", "16x8@3x5", "a grid of 3x5 has 15 cells"),
        ("stream.features", "16x8", "write streams.image=3x32x32"),
    ],
)
def test_what_is_no_shape_is_refused(key: str, value: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_shapes({key: value})


def test_the_command_line_says_options_and_shapes_of_a_component() -> None:
    settings = settings_from(["backbone/mine.streams.class_token=1x8", "backbone/mine.mlp-ratio=2"])
    assert settings == {"backbone/mine": {"streams.class_token": "1x8", "mlp_ratio": "2"}}


PICKY = """        super().__init__()
        if setting.streams[FEATURES].shape[1] != 33:
            raise UserError("tokens must be 33 wide")
"""


def test_a_backbone_of_one_shape_alone_is_tested_with_it(change: Callable[..., Subject]) -> None:
    net = change("Net", "        super().__init__()\n", PICKY)
    with pytest.raises(ViolationError, match="tokens must be 33 wide"):
        examine(law_named("can-be-constructed", net), net)
    picky = given(net, streams_features="12x33@3x4")
    for law in ("predicts-every-stream", "tokens-keep-their-place", "trains-with-losses"):
        examine(law_named(law, picky), picky)
    assert case(picky).build().grid == (3, 4)


def test_images_of_a_given_shape_are_what_codecs_and_encoders_are_tested_with() -> None:
    for component in ("Fold", "Eyes"):
        of = given(subject(component), streams_image="2x16x20")
        built = case(of).build()
        assert case(of).inputs(built, 1)["images"].shape[1:] == (2, 16, 20)
