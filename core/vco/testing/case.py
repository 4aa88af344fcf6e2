"""A case: one component at one setting and one size, and how a law runs over all of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch

from vco.errors import UserError
from vco.registry import one_line
from vco.testing.law import Law, NotApplicableError, ViolationError
from vco.testing.sizes import FIXED, Sizes, draw_sizes
from vco.testing.subject import Subject
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

    def cast(self, inputs: Any, dtype: torch.dtype) -> Any:
        """The inputs in another dtype, as far as the contract lets it vary."""
        raise NotApplicableError("the contract fixes the dtypes")

    def rows_are_independent(self, component: Any) -> bool:
        """Whether row i of the outputs may depend on nothing but row i of the inputs."""
        return not getattr(component, "couples_batch", False)


@attrs.frozen(kw_only=True)
class TrainedCase(ModuleCase):
    """A case of a component whose weights are trained, averaged and saved."""


def examine(law: Law, subject: Subject) -> None:
    """Checks a law on one component: fixed sizes, other choices of its options, sizes that Hypothesis draws.

    Raises:
        ViolationError: with the settings and the size at which it is broken.
        NotApplicableError: if it says nothing about this component.
    """
    try:
        config, variants = subject.config, subject.variants
    except UserError as error:
        raise ViolationError(str(error)) from error
    case_class = case_of(subject)
    tried = case_class.sizes_tried
    refusals: list[str] = []
    done = 0

    def check(config: Any, sizes: Sizes) -> None:
        nonlocal done
        case = case_class(subject=subject, config=config, sizes=sizes)
        try:
            law.check(case)
            done += 1
        except NotApplicableError:
            raise
        except UserError as error:  # the component refuses these settings at this size, which is its right
            refusals.append(str(error))
        except Exception as error:
            reason = str(error) if isinstance(error, ViolationError) else one_line(error)
            where = ", ".join(f"{field.name} {getattr(sizes, field.name)}" for field in attrs.fields(Sizes))
            raise ViolationError(f"{reason}\n  at {where}\n  with {config}") from error

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
    if not done:  # which is what the law `can-be-constructed` is about
        raise NotApplicableError(f"it refuses the settings that it is tested with: {refusals[0]}")


def case_of(subject: Subject) -> type[Case]:
    """The class of cases of a component's kind."""
    from vco.testing import kinds

    return kinds.CASES[subject.entry.kind]


def laws_of(subject: Subject) -> list[Law]:
    """The laws that hold for a component's kind; only "loads" where its class cannot be used."""
    from vco.testing import kinds

    try:
        subject.config  # noqa: B018
    except UserError:
        return [law for law in kinds.ALL_LAWS if law.name == "loads"]
    return [law for law in kinds.ALL_LAWS if issubclass(case_of(subject), law.case)]
