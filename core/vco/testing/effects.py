"""Whether options do something: an option that is read nowhere is a mistake that no result tells."""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from vco.api.component import Component
from vco.testing import options
from vco.testing.case import Case, RefusedError
from vco.testing.law import NotApplicableError, does_not_apply, require
from vco.testing.tensors import distance

AnyCase = TypeVar("AnyCase", bound=Case)


def require_every_option_does_something(
    case: AnyCase, observed: Callable[[AnyCase], dict[str, Tensor]], passed_over: Collection[str] = ()
) -> None:
    """Raises `ViolationError` if no other value of a number or switch changes what is observed of a component.

    It need not do so at the first settings: other values of one other option are tried too.

    Args:
        case: the component at its first settings.
        observed: all that it does, by name.
        passed_over: options that are left out.
    """
    useful: dict[str, bool] = {}
    for base in (case.config, *options.variants(case.config, case.subject.contract, ())):
        with suppress(RefusedError, NotApplicableError):
            before = observed(attrs.evolve(case, config=base))
            for name, config in _changed(base, case.subject.contract):
                if name not in passed_over and not useful.get(name, False):
                    with suppress(RefusedError, NotApplicableError):
                        useful[name] = differ(before, observed(attrs.evolve(case, config=config)))
    if not useful:
        does_not_apply("it has no number and no switch of this sort")
    require_useful(useful)


def require_useful(useful: dict[str, bool]) -> None:
    """Raises `ViolationError` if an option is not useful."""
    for name, changes_something in useful.items():
        require(changes_something, f"other values of {name} change nothing")


def differ(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    """Whether two observations are not the same to the bit."""
    return before.keys() != after.keys() or any(distance(x, after[path]) > 0 for path, x in before.items())


def learning_rates(component: Component) -> Tensor:
    """The factor of its learning rate at steps 0, 1, 2, 4 and so on."""
    return torch.tensor([component.learning_rate_scale(step) for step in (0, *(2**k for k in range(21)))])


def _changed(config: Any, contract: type[Any]) -> Iterator[tuple[str, Any]]:
    """Each number or switch of a config, and the config with another value of it."""
    for name in options.own_options(type(config), contract):
        now = getattr(config, name)
        values: tuple[Any, ...] = ()
        if isinstance(now, bool):
            values = (not now,)
        elif isinstance(now, int):
            values = (now // 2, 2 * now, now + 1)
        elif isinstance(now, float):
            values = (0.0, 0.5, 1.0, now / 2, 2 * now)
        for value in values:
            if value != now and (other := options.evolved(config, **{name: value})) is not None:
                yield name, other
