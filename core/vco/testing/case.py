"""A case: one component at one setting and one size."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from vco.errors import UserError
from vco.testing import options
from vco.testing.sizes import FIXED, Sizes
from vco.testing.subject import Subject
from vco.testing.tensors import scramble


class RefusedError(UserError):
    """A component refuses the settings that it is given, which is its right; elsewhere `UserError` is a violation."""


@attrs.frozen(kw_only=True)
class Case(ABC):
    """One component at one setting and one size."""

    kind: ClassVar[str]
    """Its kind in `vco.kinds.KINDS`."""
    sizes_tried: ClassVar[Sequence[Sizes]] = FIXED

    subject: Subject
    config: Any
    sizes: Sizes
    varied: bool = False
    """Whether one of the options has another value than those that the component is tested with at first."""

    @classmethod
    def small(cls, subject: Subject) -> Any:
        """The options that a component is tested with at first; a kind may make those small that cost time."""
        return subject.config

    @classmethod
    def situations(cls, subject: Subject) -> Sequence[Mapping[str, Any]]:
        """Further fields of the case that a component is tested with; all sizes are tried in the first one."""
        return ({},)

    @abstractmethod
    def make(self) -> Any:
        """The component as vco constructs it; may raise `UserError`."""

    def construct(self) -> Any:
        """The component as vco constructs it.

        Raises:
            RefusedError: instead of the `UserError` with which it refuses these settings.
        """
        try:
            return self.make()
        except UserError as error:
            raise RefusedError(str(error)) from error

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
        for name, config in options.sampled_otherwise(self.config):
            with suppress(RefusedError):
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

    def waits_for_values(self, component: Any) -> bool:
        """Whether the component may wait for the device to say how many rows there are of some kind."""
        return False


@attrs.frozen(kw_only=True)
class TrainedCase(ModuleCase):
    """A case of a component whose weights are trained, averaged and saved."""

    def shares(self) -> list[Tensor]:
        """Rows of the batch that each of several processes would have: as many each."""
        half = self.sizes.batch // 2
        return list(torch.arange(2 * half).split(half)) if half else []


@attrs.frozen(kw_only=True)
class StreamCase(ModuleCase):
    """A case of a component that yields streams, in the dtype of what it is given."""

    @abstractmethod
    def cast(self, inputs: Any, dtype: torch.dtype) -> Any:
        """The inputs in another dtype, as far as the contract lets it vary."""


@attrs.frozen(kw_only=True)
class FrozenCase(ModuleCase):
    """A case of a component that is not trained, and may read its weights from a file when it is loaded."""
