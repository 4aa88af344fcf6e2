"""A case: one component at one setting and one size, and how a law runs over all of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from vco.errors import UserError
from vco.registry import PRESETS, one_line
from vco.testing.law import Law, NotApplicableError, ViolationError
from vco.testing.sizes import FIXED, Sizes, draw_sizes
from vco.testing.subject import Preset, Subject, sampled_otherwise
from vco.testing.tensors import scramble


@attrs.frozen(kw_only=True)
class Case(ABC):
    """One component at one setting and one size."""

    kind: ClassVar[str]
    """Its kind in `vco.hooks.CONTRACTS`."""
    sizes_tried: ClassVar[Sequence[Sizes]] = FIXED

    subject: Subject
    config: Any
    sizes: Sizes

    @abstractmethod
    def construct(self) -> Any:
        """The component as vco constructs it; may raise `UserError`."""

    def build(self) -> Any:
        """The component in eval mode with weights that are all different from zero; draws nothing ambient."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.sizes.seed)
            component = self.construct()
        if isinstance(component, torch.nn.Module):
            scramble(component)
            component.eval()
        return component

    def sampled_otherwise(self) -> Iterator[tuple[str, Any]]:
        """Each option that acts in sampling alone, and the component with another value of it that it accepts."""
        for name, config in sampled_otherwise(self.config):
            with suppress(UserError):
                yield name, attrs.evolve(self, config=config).build()

    def generator(self, *key: int) -> torch.Generator:
        """A generator seeded by the case and a key."""
        return torch.Generator().manual_seed(hash((self.sizes.seed, *key)) % 2**31)


@attrs.frozen(kw_only=True)
class ModuleCase(Case):
    """A case of a component that maps tensors to tensors, for the laws that all of these share."""

    @abstractmethod
    def inputs(self, component: Any, seed: int) -> Any:
        """A tree of tensors with the batch as first axis, random and in range."""

    @abstractmethod
    def run(self, component: Any, inputs: Any) -> Any:
        """The tree of outputs."""


@attrs.frozen(kw_only=True)
class TrainedCase(ModuleCase):
    """A case of a component whose weights are trained, averaged and saved."""

    def shares(self) -> list[Tensor]:
        """Rows of the batch that each of several processes would have: as many each."""
        half = self.sizes.batch // 2
        return list(torch.arange(2 * half).split(half)) if half else []


@attrs.frozen(kw_only=True)
class StreamCase(TrainedCase):
    """A case of a component that yields streams, in the dtype of what it is given."""

    @abstractmethod
    def cast(self, inputs: Any, dtype: torch.dtype) -> Any:
        """The inputs in another dtype, as far as the contract lets it vary."""


def examine(law: Law, subject: Subject) -> None:
    """Checks a law on one component: fixed sizes, other choices of its options, sizes that Hypothesis draws.

    Raises:
        ViolationError: with the settings and the size at which it is broken.
        NotApplicableError: if it says nothing about this component at any setting and size.
    """
    try:
        config, variants = subject.config, subject.variants
    except UserError as error:
        raise ViolationError(str(error)) from error
    case_class = case_of(subject)
    tried = case_class.sizes_tried
    reasons: list[str] = []
    held = answered = False

    def check(config: Any, sizes: Sizes) -> None:
        nonlocal held, answered
        case = case_class(subject=subject, config=config, sizes=sizes)
        try:
            law.check(case)
            held = True
        except NotApplicableError as reason:
            reasons.append(str(reason))
        except UserError as error:  # it refuses these settings at this size, which is its right
            reasons.append(f"it refuses the settings that it is tested with: {error}")
            return
        except Exception as error:
            reason = str(error) if isinstance(error, ViolationError) else one_line(error)
            if config is not None:
                where = ", ".join(f"{field.name} {getattr(sizes, field.name)}" for field in attrs.fields(Sizes))
                reason = f"{reason}\n  at {where}\n  with {config}"
            raise ViolationError(reason) from error
        answered = answered or config is subject.config

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with such small tensors more threads only wait for each other
    try:
        if law.once:
            check(config, tried[0])
        else:
            for sizes in tried:
                check(config, sizes)
            for variant in variants:
                check(variant, tried[0])
            if tried is FIXED:
                draw_sizes(lambda sizes: check(config, sizes))
    finally:
        torch.set_num_threads(threads)
    if not (held and answered):  # settings that are refused at every size are not made good by other ones
        raise NotApplicableError(reasons[0])


def case_of(subject: Subject) -> type[Case]:
    """The class of cases of a component's kind."""
    from vco.testing import kinds

    return kinds.CASES[subject.entry.kind]


def laws_of(subject: Subject) -> list[Law]:
    """The laws that say something about a subject; only "loads" where the class of a component cannot be used."""
    from vco.testing import kinds

    if isinstance(subject, Preset):
        return [law for law in kinds.ALL_LAWS if law.case is kinds.CASES[PRESETS]]
    try:
        subject.config  # noqa: B018
    except UserError:
        return [law for law in kinds.ALL_LAWS if law.name == "loads"]
    laws = [law for law in kinds.ALL_LAWS if issubclass(case_of(subject), law.case)]
    return [law for law in laws if law.about(subject.component)]
