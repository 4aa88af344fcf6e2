"""Which laws are checked on a component, and at which of its settings."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from subjects import subject

from vco.testing.case import RefusedError
from vco.testing.examine import examine, first_settings, laws_of, variants
from vco.testing.law import Law, NotApplicableError, ViolationError, does_not_apply, require
from vco.testing.laws.loss_case import LossCase
from vco.testing.subject import Subject


def the_law(check: Callable[[LossCase], None]) -> Law:
    """A law for losses."""
    return Law(name="a-law", claim="A claim.", case=LossCase, check=check, about=lambda component: True)


@pytest.mark.parametrize(
    ("component", "law"),
    [
        ("Near", "couples-what-it-says"),
        ("Near", "taps-are-matched-by-position"),
        ("Near", "dtype-follows-the-input"),
        ("Near", "two-processes-give-what-one-gives"),
        ("Head", "descent-does-not-lead-away"),
        ("Mates", "rows-do-not-mix"),
        ("Eyes", "missing-weights-are-named"),
        ("Dots", "missing-files-are-named"),
    ],
)
def test_a_law_that_says_nothing_about_a_class_is_no_case(component: str, law: str) -> None:
    assert law not in {law.name for law in laws_of(subject(component))}


def test_laws_of_fits_are_no_cases_for_an_adapter_without_fit(change: Callable[..., Subject]) -> None:
    fits = {law.name for law in laws_of(subject("Lens")) if "fit" in law.name}
    assert len(fits) >= 6
    assert not fits & {law.name for law in laws_of(change("Lens", "def fit(", "def prepare("))}


def test_a_law_that_does_not_apply_by_default_is_checked_where_it_does() -> None:
    def check(case: LossCase) -> None:
        if not case.config.root:
            does_not_apply("it takes no root")
        require(False, "the root is wrong")

    with pytest.raises(ViolationError, match="the root is wrong"):
        examine(the_law(check), subject("Near"))


def test_settings_that_are_refused_at_every_size_are_not_made_good_by_other_ones() -> None:
    def check(case: LossCase) -> None:
        if not case.config.root:
            raise RefusedError("no root, no loss")

    with pytest.raises(NotApplicableError, match="refuses the settings that it is tested with: no root, no loss"):
        examine(the_law(check), subject("Near"))


def test_a_size_may_be_refused() -> None:
    def check(case: LossCase) -> None:
        if case.sizes.batch == 3:
            raise RefusedError("three is a crowd")

    examine(the_law(check), subject("Near"))


def tried(of: Subject) -> list[tuple[str, Any]]:
    """Each option that is varied, and its value."""
    default = attrs.asdict(first_settings(of))
    return [(name, value) for other in variants(of) for name, value in attrs.asdict(other).items() - default.items()]


def test_numbers_are_halved_or_doubled_and_switches_turned() -> None:
    assert tried(subject("Guide")) == [("scale", 1.0), ("low", 0.05), ("high", 0.5), ("drop", 0.05)]
    assert tried(subject("Near")) == [("root", True), ("features", "second")]


def test_a_number_that_cannot_be_halved_is_doubled(change: Callable[..., Subject]) -> None:
    assert tried(change("Clock", "validator=ge(0.1)", "validator=ge(1.0)")) == [("power", 2.0)]


def test_sizes_stay_as_they_are() -> None:
    assert tried(subject("Net")) == [("gate", "relu")]
