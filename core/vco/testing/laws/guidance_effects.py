"""Laws for guidance rules: every option does something."""

from typing import Any, Final

from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition, Guidance
from vco.config.plain import sampling_options
from vco.testing.effects import differ, require_every_option_does_something, require_useful
from vco.testing.law import law
from vco.testing.laws.guidance import GuidanceCase
from vco.testing.tensors import leaves

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
            useful[name] = useful.get(name, False) or differ(before, _sampled(case, other))
    require_useful(useful)


@law(GuidanceCase, once=True)
def options_of_training_do_something(case: GuidanceCase) -> None:
    """Every other number or switch changes what is hidden in training or shown instead, or something in sampling.

    It may do so at another value of some other option alone.
    """
    require_every_option_does_something(case, _everything, sampling_options(type(case.config)))


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
