"""What a loss reads of a step only if it declares that, so that runs which lack it are refused before they start."""

from collections.abc import Iterator, Mapping
from typing import NoReturn

from torch import Tensor

from vco.api import FeatureSource
from vco.testing.law import require


class Undeclared(Mapping[str, FeatureSource]):
    """The encoders of a loss that declares that it reads none."""

    def __getitem__(self, name: str) -> FeatureSource:
        """Never an encoder."""
        return self._complain()

    def __iter__(self) -> Iterator[str]:
        """Never a name."""
        return self._complain()

    def __len__(self) -> int:
        """None."""
        return 0

    def _complain(self) -> NoReturn:
        require(False, "it reads encoder features, and does not declare needs_features = True")
        raise AssertionError


class Declared(dict[str, Tensor]):
    """What a loss declares that it reads of the network's context."""

    def __missing__(self, name: str) -> NoReturn:
        """Says that it reads something else."""
        require(False, f"it reads {name!r} of the network's context, and does not declare needs_context = ({name!r},)")
        raise AssertionError
