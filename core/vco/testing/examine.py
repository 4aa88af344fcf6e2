"""Runs a law on a component: at all sizes, with other choices of its options, at sizes that Hypothesis draws."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import torch

from vco.errors import UserError, one_line
from vco.kinds import PRESETS
from vco.testing import options
from vco.testing.case import Case, RefusedError
from vco.testing.law import Law, NotApplicableError, ViolationError
from vco.testing.laws import CASES, LAWS
from vco.testing.sizes import FIXED, Sizes, draw_sizes
from vco.testing.subject import Preset, Subject

CONSTRUCTION: Final = "can-be-constructed"
"""The law that all others but the static ones rest on."""


def case_of(subject: Subject) -> type[Case]:
    """The class of cases of a component's kind."""
    return CASES[subject.entry.kind]


def laws_of(subject: Subject) -> list[Law]:
    """The laws that say something about a subject; only "loads" where the class of a component cannot be used."""
    if isinstance(subject, Preset):
        return [law for law in LAWS if law.case is CASES[PRESETS]]
    try:
        subject.config  # noqa: B018
    except UserError:
        return [law for law in LAWS if law.name == "loads"]
    laws = [law for law in LAWS if issubclass(case_of(subject), law.case)]
    return [law for law in laws if law.about(subject.component)]


def examine(law: Law, subject: Subject) -> None:
    """Checks a law on one component: fixed sizes, other choices of its options, sizes that Hypothesis draws.

    Raises:
        ViolationError: with the settings and the size at which it is broken.
        NotApplicableError: if it says nothing about this component at any setting and size, or there is no component
            to say it about.
    """
    try:
        config = first_settings(subject)
    except UserError as error:
        raise ViolationError(str(error)) from error
    if not law.static and (reason := _why_there_is_none(subject)):
        raise NotApplicableError(reason)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with such small tensors more threads only wait for each other
    try:
        _Examination(law, subject, config).run()
    finally:
        torch.set_num_threads(threads)


def first_settings(subject: Subject) -> Any:
    """The options that a component is tested with at first; None for a preset.

    Raises:
        UserError: if its class cannot be used, or its author gave an option that is not valid.
    """
    if isinstance(subject, Preset):
        return None
    if "small" not in subject.notes:
        subject.notes["small"] = case_of(subject).small(subject)
    return subject.notes["small"]


def variants(subject: Subject) -> list[Any]:
    """`first_settings` with other choices, one option at a time; what was made small or given stays as it is."""
    if isinstance(subject, Preset):
        return []
    config = first_settings(subject)
    names = attrs.fields_dict(type(config))
    changed = [name for name in names if getattr(config, name) != getattr(subject.config, name)]
    return options.variants(config, subject.contract, {*changed, *subject.options, *subject.notes.get("sizes", ())})


def _why_there_is_none(subject: Subject) -> str:
    """Why a component cannot be constructed; empty if it can. Found out once."""
    if isinstance(subject, Preset):
        return ""
    if CONSTRUCTION not in subject.notes:
        law = next(law for law in LAWS if law.name == CONSTRUCTION)
        try:
            examine(law, subject)
        except NotApplicableError as reason:
            subject.notes[CONSTRUCTION] = str(reason)
        except ViolationError:
            subject.notes[CONSTRUCTION] = f"the law {CONSTRUCTION} is broken"
        else:
            subject.notes[CONSTRUCTION] = ""
    return subject.notes[CONSTRUCTION]


class _Examination:
    """One law on one component."""

    def __init__(self, law: Law, subject: Subject, config: Any) -> None:
        self.law, self.subject, self.config = law, subject, config
        self.case = case_of(subject)
        self.reasons: list[str] = []
        self.held = False
        """Whether the law has held in some case."""
        self.answered = False
        """Whether the component has accepted the options that it is tested with at first."""

    def run(self) -> None:
        """Checks all cases."""
        tried = self.case.sizes_tried
        first, *others = self.case.situations(self.subject)
        if self.law.once:
            self.check(self.config, tried[0], first)
        else:
            for sizes in tried:
                self.check(self.config, sizes, first)
            for situation in others:
                self.check(self.config, tried[0], situation)
            for variant in variants(self.subject):
                self.check(variant, tried[0], first)
            if tried is FIXED:
                draw_sizes(lambda sizes: self.check(self.config, sizes, first))
        if not (self.held and self.answered):  # settings that are refused at every size are not made good by other ones
            raise NotApplicableError(self.reasons[0])

    def check(self, config: Any, sizes: Sizes, situation: Mapping[str, Any]) -> None:
        """Checks one case."""
        varied = config is not self.config
        case = self.case(subject=self.subject, config=config, sizes=sizes, varied=varied, **situation)
        try:
            self.law.check(case)
            self.held = True
        except NotApplicableError as reason:
            self.reasons.append(str(reason))
        except RefusedError as error:
            self.reasons.append(f"it refuses the settings that it is tested with: {error}")
            return
        except Exception as error:
            reason = str(error) if isinstance(error, ViolationError) else one_line(error)
            raise ViolationError(reason if config is None else f"{reason}\n{_where(case, situation)}") from error
        self.answered = self.answered or not varied


def _where(case: Case, situation: Mapping[str, Any]) -> str:
    """The size and the options of a case, for the message of a violation."""
    facts = {**attrs.asdict(case.sizes), **situation}
    return f"  at {', '.join(f'{name} {value}' for name, value in facts.items())}\n  with {case.config}"
