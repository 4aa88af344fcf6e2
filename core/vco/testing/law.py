"""What a law is, and how it says that it is broken or that it does not apply."""

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

import attrs


class ViolationError(AssertionError):
    """A component breaks a law; the message says what was expected and what came."""


class NotApplicableError(Exception):
    """A law says nothing about this case; the message is the reason."""


def require(holds: Any, message: str) -> None:
    """Raises `ViolationError` with `message` unless `holds`."""
    if not bool(holds):
        raise ViolationError(message)


def does_not_apply(reason: str) -> NoReturn:
    """Ends the check of one case: the law says nothing about it."""
    raise NotApplicableError(reason)


@attrs.frozen(kw_only=True)
class Law:
    """A named claim about all components of a kind."""

    name: str
    """Kebab-case; the last part of a check's id."""
    claim: str
    """One sentence."""
    case: type[Any]
    """The class of `Case` it is about; it holds for all subclasses."""
    check: Callable[[Any], None]
    """Takes a case; raises `ViolationError` or `NotApplicableError`."""
    once: bool = False
    """Whether one case with the default settings says it all (no sizes enter)."""
    slow: bool = False
    """Whether it takes seconds, so that it runs only on demand."""
    static: bool = False
    """Whether it looks at the class, its source and its options alone, so that nothing needs to be constructed."""
    about: Callable[[Any], bool]
    """Whether it says anything about a class of components; known without constructing one."""


LAWS: list[Law] = []
"""Every law, in the order in which their modules were imported."""


def law(
    case: type[Any],
    *,
    once: bool = False,
    slow: bool = False,
    static: bool = False,
    about: Callable[[Any], bool] = lambda component: True,
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Registers a function as a law; its name and the first paragraph of its docstring become the law's."""

    def register(check: Callable[[Any], None]) -> Callable[[Any], None]:
        claim = " ".join((inspect.getdoc(check) or "").partition("\n\n")[0].split())
        name = check.__name__.replace("_", "-")
        LAWS.append(
            Law(name=name, claim=claim, case=case, check=check, once=once, slow=slow, static=static, about=about)
        )
        return check

    return register
