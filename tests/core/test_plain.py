import contextlib
import enum
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import yaml
from fake_plugin.parts import Near, Net
from hypothesis import given, settings
from hypothesis import strategies as st

from vco.config.plain import Given, as_text, build, field_docs, form, parse, read_plain, to_plain
from vco.errors import UserError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TYPES = (bool, int, float, str, Literal["soft", "hard"], float | None, tuple[int, ...], tuple[float, float],
         Mapping[str, float])  # fmt: skip


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (bool, True, True), (bool, "False", False), (bool, "yes", True), (bool, "off", False),
        (int, 3, 3), (int, "-3", -3),
        (float, "1e-4", 1e-4), (float, 2, 2.0), (float, "2", 2.0),
        (str, "a b", "a b"), (str, "1", "1"),
        (Literal["soft", "hard"], "hard", "hard"), (Literal[1, 2], "2", 2),
        (float | None, None, None), (float | None, "none", None), (float | None, "0.5", 0.5),
        (tuple[int, ...], "1,2", (1, 2)), (tuple[int, ...], [1, 2], (1, 2)), (tuple[int, ...], "", ()),
        (tuple[float, float], "0.9,1", (0.9, 1.0)),
        (tuple[tuple[int, int], ...], [[1, 2], [3, 4]], ((1, 2), (3, 4))),
        (Mapping[str, float], "a=1,b=.5", {"a": 1.0, "b": 0.5}), (Mapping[str, float], {"a": 1}, {"a": 1.0}),
    ],
)  # fmt: skip
def test_values_become_exactly_the_annotated_type(kind: Any, value: Any, expected: Any) -> None:
    assert repr(parse(kind, value)) == repr(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (bool, 1), (bool, "maybe"), (bool, None),
        (int, 1.9), (int, 1.0), (int, "1.9"), (int, True), (int, None), (int, "9" * 5000), (int, 2**63),
        (float, "nan"), (float, math.inf), (float, "-inf"), (float, False), (float, "abc"), (float, 10**400),
        (float, 2.0**63), (float, "-1e300"),
        (str, 3), (str, None), (str, "a\0b"), (str, "\udc80"), (str, ["a"]),
        (Literal["soft", "hard"], "sof"), (Literal["soft", "hard"], ["soft"]), (Literal[1, 2], True),
        (float | None, "nothing"), (float | None, True),
        (tuple[int, ...], 3), (tuple[int, ...], "1,x"), (tuple[int, ...], {"a": 1}),
        (tuple[float, float], "0.9"), (tuple[float, float], [1, 2, 3]),
        (Mapping[str, float], "a"), (Mapping[str, float], "a=1,a=2"), (Mapping[str, float], [1]),
        (Mapping[str, float], {1: 1.0}), (Mapping[str, float], "a=x"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_saying_what_was_expected(kind: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|Exceeds"):
        parse(kind, value)


@settings(deadline=None)
@given(kind=st.sampled_from(TYPES), value=PLAIN)
def test_any_plain_value_is_parsed_to_a_fixed_point_or_refused(kind: Any, value: Any) -> None:
    try:
        parsed = parse(kind, value)
    except ValueError:
        return
    assert parse(kind, to_plain(parsed)) == parsed


@settings(deadline=None)
@given(kind=st.sampled_from(TYPES), text=st.text(alphabet="0123456789.,=-einfax_", max_size=12))
def test_what_help_shows_as_a_value_can_be_given_back(kind: Any, text: str) -> None:
    try:
        parsed = parse(kind, text)
    except ValueError:
        return
    assert parse(kind, as_text(parsed)) == parsed


def test_an_unsupported_annotation_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not supported"):
        parse(Colour, "red")


def test_forms_say_how_a_value_is_written() -> None:
    kinds = [*TYPES, int | None]
    assert [form(kind) for kind in kinds] == [
        "true|false", "int", "float", "text", "soft|hard", "float|none", "int,...", "float,float", "name=float,...",
        "int|none",
    ]  # fmt: skip


def _build(values: dict[str, Any]) -> tuple[Any, list[str]]:
    errors: list[str] = []
    given = {name: Given(value, f"file {name}") for name, value in values.items()}
    return build(Net.Config, given, "backbone", errors), errors


def test_build_without_values_is_the_class_with_its_defaults() -> None:
    assert _build({}) == (Net.Config(), [])


def test_every_mistake_is_reported_at_once_with_path_and_source() -> None:
    built, errors = _build({"dpth": 1, "mode": "sof", "depth": 0, "drop_rate": "-1", "width": 13})
    assert built is None
    assert errors == [
        "backbone.dpth: unknown option; did you mean 'backbone.depth'? (from file dpth)",
        "backbone.mode: expected soft|hard, got 'sof' (from file mode)",
        "backbone.depth: 'depth' must be >= 1: 0 (from file depth)",
        "backbone.width: width (13) must be divisible by heads (4) (from file width)",
        "backbone.drop_rate: 'drop_rate' must be >= 0.0: -1.0 (from file drop_rate)",
    ]


def test_a_check_across_fields_does_not_judge_the_default_of_a_field_that_is_wrong() -> None:
    _, errors = _build({"heads": "three", "width": 9})
    assert errors == ["backbone.heads: expected int, got 'three' (from file heads)"]


def test_a_check_that_trips_over_a_wrong_field_adds_nothing() -> None:
    _, errors = _build({"heads": 0, "depth": 0})
    assert not any("ZeroDivisionError" in error for error in errors)
    assert len(errors) == 2


def test_a_wrong_field_is_never_built_even_if_its_check_cannot_say_why() -> None:
    built, errors = _build({"heads": 0})
    assert built is None
    assert any("backbone.heads: 'heads' must be >= 1: 0" in error for error in errors)


def test_validators_are_on_again_after_a_build() -> None:
    _build({"depth": 0})
    with pytest.raises(ValueError, match="depth"):
        Net.Config(depth=0)


def test_a_class_that_raises_in_its_constructor_is_an_error_line() -> None:
    @attrs.frozen(kw_only=True)
    class Moody:
        size: int = 1

        def __attrs_post_init__(self) -> None:
            raise ValueError("not today")

    errors: list[str] = []
    assert build(Moody, {}, "data", errors) is None
    assert errors == ["data: ValueError: not today"]


def test_docs_are_the_lines_under_the_fields_of_the_class_and_its_bases() -> None:
    docs = {"weight": "Factor of this loss in the total, at least 0.", "tau": "Temperature, above 0."}
    assert field_docs(Near.Config).items() >= docs.items()
    assert "heads" not in field_docs(Net.Config)


def test_plain_data_survives_yaml() -> None:
    config = Net.Config(gate=1e-5, stages=(1, 2), label="no", shares={"a": 1e16}, drop_rate=1e17)
    plain = yaml.safe_load(yaml.safe_dump(to_plain(config)))
    assert _build(plain) == (config, [])


BAD_FILES = {
    "python object": ("a.yaml", b"a: !!python/object/apply:os.system ['exit 1']", "could not determine a constructor"),
    "python name": ("a.yaml", b"a: !!python/name:os.system ''", "could not determine a constructor"),
    "alias": ("a.yaml", b"a: &x [1]\nb: *x", "aliases"),
    "recursive alias": ("a.yaml", b"a: &x [*x]", "aliases"),
    "merge key": ("a.yaml", b"a: {<<: {b: 1}}", "configuration"),
    "key given twice": ("a.yaml", b"train: {}\ntrain: {}", "the key 'train' is given twice"),
    "unhashable key": ("a.yaml", b"? [1]\n: 2", "configuration"),
    "bad tag value": ("a.yaml", b"a: !!bool foo", "configuration"),
    "impossible date": ("a.yaml", b"a: 2024-99-99", "configuration"),
    "syntax": ("a.yaml", b"a: [1\nb: 2", "line 2"),
    "list": ("a.yaml", b"- 1", "must be a mapping"),
    "number as key": ("a.yaml", b"1: 2", "must be a mapping"),
    "empty list": ("a.yaml", b"[]", "must be a mapping"),
    "zero": ("a.yaml", b"0", "must be a mapping"),
    "two documents": ("a.yaml", b"a: 1\n---\nb: 2", "expected a single document"),
    "deep": ("a.yaml", b"a: " + b"[" * 20_000, "RecursionError"),
    "binary": ("a.yaml", bytes(range(256)), "UnicodeDecodeError"),
    "control character": ("a.yaml", b"a: \x07", "configuration"),
    "large": ("a.yaml", b"#" * 300_000, "more than 262144 bytes"),
    "toml": ("a.toml", b"[train]\nsteps = 5", "configuration"),
    "python": ("a.py", b"steps = 5", "must be a mapping"),
    "key given twice on one line": ("a.json", b'{"a": 1, "a": 2}', "the key 'a' is given twice"),
}


@pytest.mark.parametrize(("name", "content", "reason"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"cannot read the configuration .*{name}") as caught:
        read_plain(tmp_path / name)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "folder.yaml", "pipe.yaml", "x" * 5000, "a\0b"])
def test_what_is_no_readable_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="cannot read the configuration"):
        read_plain(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.yaml", "seed: 1\ntrain: {steps: 2}"), ("a.YML", "\ufeffseed: 1\ntrain:\n  steps: 2"),
     ("no-suffix", "train:\n  steps: 2\nseed: 1")],
)  # fmt: skip
def test_files_are_yaml_whatever_they_are_called(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_plain(tmp_path / name) == {"seed": 1, "train": {"steps": 2}}


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert read_plain(tmp_path / "a.yaml") == {}


@settings(deadline=None)
@given(
    content=st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!<>|'\"#,?%@ \n\t01.~", max_size=40).map(str.encode)
)
def test_any_bytes_are_a_mapping_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_bytes(content)
    with contextlib.suppress(UserError):
        assert isinstance(read_plain(file), dict)
