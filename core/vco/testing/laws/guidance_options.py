"""What the options of a guidance rule mean, found out by what they do and not by their names."""

from collections.abc import Sequence
from typing import Any, Final

import attrs

from vco.api import FEATURES, IMAGE, Streams
from vco.testing.laws.guidance import GuidanceCase, conditional
from vco.testing.options import evolved
from vco.testing.tensors import distance

MIDDLE: Final = {IMAGE: 0.5, FEATURES: 0.5}
"""Times at which guidance is looked at; rules that bound their times usually act there."""
BOUNDS: Final = (0.3, 0.7)
"""Values that are tried as bounds of time."""


@attrs.frozen(kw_only=True)
class Meaning:
    """Which options do what."""

    scales: Sequence[str]
    """Strengths: the guided velocity grows evenly with each of them."""
    lower: Sequence[str]
    """Times above which the rule acts."""
    upper: Sequence[str]
    """Times below which the rule acts."""
    shares: Sequence[str]
    """Shares of the training samples from which something is hidden: nothing at 0, something from each at 1."""


def meaning_of(case: GuidanceCase) -> Meaning:
    """What the options of a rule mean; those of which this cannot be told mean nothing. Found out once."""
    key = ("meaning", repr(case.config), case.sizes)
    if key not in case.subject.notes:
        case.subject.notes[key] = _found_out(case)
    return case.subject.notes[key]


def _found_out(case: GuidanceCase) -> Meaning:
    now = {name: getattr(case.config, name) for name in attrs.fields_dict(type(case.config))}
    numbers = [name for name, value in now.items() if type(value) is float]
    scales = [name for name, value in now.items() if type(value) in (float, int, type(None)) and _is_scale(case, name)]
    guiding = with_options(case, **dict.fromkeys(scales, 2.0)) if scales else None
    rest = [name for name in numbers if name not in scales] if guiding is not None else []
    hiding_nothing = _with_zeros(case, numbers)
    return Meaning(
        scales=scales,
        lower=[name for name in rest if guiding is not None and _is_bound(guiding, name, above=True)],
        upper=[name for name in rest if guiding is not None and _is_bound(guiding, name, above=False)],
        shares=[name for name in numbers if _is_share(hiding_nothing, name)],
    )


def with_options(case: GuidanceCase, **options: Any) -> GuidanceCase | None:
    """The same case with other options; None if the rule refuses them."""
    config = evolved(case.config, **options)
    return None if config is None else attrs.evolve(case, config=config)


def hiding_nothing(case: GuidanceCase) -> GuidanceCase:
    """The same case with all shares at 0."""
    return _with_zeros(case, meaning_of(case).shares)


def guided_streams(case: GuidanceCase, times: dict[str, float]) -> tuple[set[str], int]:
    """The streams whose velocity is not that of the conditional branch at some times, and the number of branches."""
    guidance, labels = case.build(), case.labels()
    branches = guidance.branches(labels, times)
    velocities = case.velocities(branches, 3)
    expected, found = velocities[conditional(branches, labels)], guidance.combine(velocities, times)
    return {name for name in found if distance(found[name], expected[name]) > 0}, len(branches)


def _with_zeros(case: GuidanceCase, names: Sequence[str]) -> GuidanceCase:
    """The same case with as many of these options as possible at 0."""
    for name in names:
        case = with_options(case, **{name: 0.0}) or case
    return case


def _is_scale(case: GuidanceCase, name: str) -> bool:
    """Whether the velocity is an affine function of an option, and no constant one."""
    found: list[Streams] = []
    for value in (2.0, 3.0, 4.0):
        other = with_options(case, **{name: value})
        if other is None:
            return False
        guidance = other.build()
        branches = guidance.branches(other.labels(), MIDDLE)
        found.append(guidance.combine(other.velocities(branches, 3), MIDDLE))
    first, second, third = found
    if any(first.keys() != other.keys() for other in found):
        return False
    moves = any(distance(first[stream], second[stream]) > 1e-5 for stream in first)
    return moves and all(distance(second[s], (first[s] + third[s]) / 2) < 1e-4 for s in first)


def _is_bound(case: GuidanceCase, name: str, above: bool) -> bool:
    """Whether the rule acts on one side of the time that an option says, and not on the other."""
    for bound in BOUNDS:
        other = with_options(case, **{name: bound})
        if other is None:
            return False
        further, nearer = (dict.fromkeys(MIDDLE, bound + way) for way in (0.02, -0.02))
        if bool(guided_streams(other, further)[0]) != above or bool(guided_streams(other, nearer)[0]) == above:
            return False
    return True


def _is_share(case: GuidanceCase, name: str) -> bool:
    """Whether an option hides nothing at 0 and something from every sample at 1, where others hide nothing."""
    nothing, everything = with_options(case, **{name: 0.0}), with_options(case, **{name: 1.0})
    if nothing is None or everything is None:
        return False
    return nothing.share_hidden(200) == 0 and everything.share_hidden(200) == 1
