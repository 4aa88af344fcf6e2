"""What components of all kinds have in common."""

from abc import ABCMeta
from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor


# not a subclass of ABC: FSDP gives a module another class, and Python then wants the same first base without slots
class Component(metaclass=ABCMeta):
    """What all kinds share: a typed config and optional measurements for the log."""

    @attrs.frozen(kw_only=True)
    class Config:
        """What a user may set.

        Field metadata {"sampling": True} says: acts in sampling alone, free after training. {"location": True} says:
        where files lie, which may change when a run goes on; what they hold is compared.
        """

    config: Any

    def metrics(self) -> Mapping[str, Tensor]:
        """Scalars worth logging (called only at logging steps; may be slow). Default: none."""
        return {}

    def learning_rate_scale(self, step: int) -> float:
        """Factor of its parameters' learning rate at a step; 0 leaves them as they are. Default: 1."""
        return 1.0
