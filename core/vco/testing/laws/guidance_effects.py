"""Laws for guidance rules: every option does something."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import attrs
from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition, Guidance
from vco.config.plain import sampling_options
from vco.testing import options
from vco.testing.case import RefusedError
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.guidance import GuidanceCase
from vco.testing.tensors import distance, leaves

TIMES: Final = 41
"""Number of times at which velocities are looked at."""
SAMPLES: Final = 64
"""Number of training samples that are looked at."""


@law(GuidanceCase, once=True, about=lambda component: bool(sampling_options(component.Config)))
def options_of_sampling_do_something(case: GuidanceCase) -> None:
    """Every number or switch of sampling alone changes the velocity at some time, or what the branches are told."""
    before = _sampled(case, case.build())
    useful: dict[str, bool] = {}
    for name, other in case.sampled_otherwise():
        if isinstance(getattr(other.config, name), int | float):
            useful[name] = useful.get(name, False) or _differ(before, _sampled(case, other))
    _require_useful(useful)


@law(GuidanceCase, once=True)
def options_of_training_do_something(case: GuidanceCase) -> None:
    """Every other number or switch changes what is hidden in training or shown instead, or something in sampling.

    It may do so at another value of some other option alone.
    """
    of_sampling, useful = sampling_options(type(case.config)), dict[str, bool]()
    for base in (case.config, *options.variants(case.config, case.subject.contract, ())):
        with suppress(RefusedError):
            before = _everything(attrs.evolve(case, config=base))
            for name, config in _changed(base, case.subject.contract):
                if name not in of_sampling and not useful.get(name, False):
                    with suppress(RefusedError):
                        useful[name] = _differ(before, _everything(attrs.evolve(case, config=config)))
    if not useful:
        does_not_apply("it has no number and no switch beside those of sampling")
    _require_useful(useful)


def _changed(config: Any, contract: type[Any]) -> Iterator[tuple[str, Any]]:
    """Each number or switch of a config, and the config with another value of it."""
    for name in options.own_options(type(config), contract):
        if isinstance(now := getattr(config, name), int | float):
            for value in (not now,) if isinstance(now, bool) else (0.0, 0.5, 1.0, now / 2, 2 * now):
                if value != now and (other := options.evolved(config, **{name: type(now)(value)})) is not None:
                    yield name, other


def _require_useful(useful: dict[str, bool]) -> None:
    for name, changes_something in useful.items():
        require(changes_something, f"other values of {name} change nothing at any time")


def _sampled(case: GuidanceCase, guidance: Guidance) -> dict[str, Tensor]:
    """Conditions and velocities of sampling, by the time, the branches there, and the path in what they are told."""
    answers: dict[str, Any] = {}
    for i in range(TIMES):
        times: dict[str, float] = {IMAGE: i / (TIMES - 1), FEATURES: i / (TIMES - 1)}
        branches = guidance.branches(case.labels(), times)
        key = f"{', '.join(sorted(branches))} at {i}"
        answers[key] = [branches, guidance.combine(case.velocities(branches, 3), times)]
    return leaves(answers)


def _everything(case: GuidanceCase) -> dict[str, Tensor]:
    """All that a rule does in training and in sampling."""
    guidance = case.build()
    condition = guidance.condition(case.labels(SAMPLES), case.generator(2))
    noisy = case.velocities({"any": Condition(labels=case.labels())}, 3)["any"]
    nulls = {stream: guidance.null(stream, noisy[stream]) for stream in condition.nulled}
    training = leaves({"condition": condition, "nulls": nulls, "weights": dict(guidance.named_parameters())})
    return {**training, **_sampled(case, guidance)}


def _differ(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() != after.keys() or any(distance(x, after[path]) > 0 for path, x in before.items())
