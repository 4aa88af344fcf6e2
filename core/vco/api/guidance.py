"""The contract of guidance: what is hidden in training, and how branches combine in sampling."""

from abc import abstractmethod
from collections.abc import Mapping

import attrs
import torch
from jaxtyping import Int
from torch import Tensor, nn

from vco.api.component import Component
from vco.api.condition import Condition
from vco.api.streams import Streams, StreamSpec


@attrs.frozen(kw_only=True)
class GuidanceSetting:
    """What guidance is told of the run."""

    streams: Mapping[str, StreamSpec]
    """Every stream of the run."""
    num_classes: int
    """Number of classes; the label `num_classes` stands for no label."""


class Guidance(Component, nn.Module):
    """What is hidden from the network in training, and how branches are combined in sampling.

    Constructed as `Class(config, GuidanceSetting)`; raises `UserError` if a stream it needs is missing.
    """

    needs_blocking: bool = False
    """Whether it blocks attention edges, so that the backbone must support it."""
    nulls_clean: bool = False
    """Whether in training the *clean* streams of the rows in `Condition.nulled` are zeros, so that the network is shown
    their noise alone, instead of `null`. Sampling shows `null` in any case."""
    weak_run: str | None = None
    """Folder of another run, whose EMA model evaluates the branch "weak"; None if there is no such branch."""

    def null(self, stream: str, x_t: Tensor) -> Tensor:
        """What the network is shown instead of `x_t` in the rows of `Condition.nulled`. Default: zeros."""
        return torch.zeros_like(x_t)

    @abstractmethod
    def condition(self, labels: Int[Tensor, " b"], generator: torch.Generator) -> Condition:
        """Training half: drops labels and blocks edges at random. Called with the whole global batch, on the CPU."""

    @abstractmethod
    def branches(self, labels: Int[Tensor, " b"], times: Mapping[str, float]) -> dict[str, Condition]:
        """Sampling half: what to evaluate at these times; one branch where nothing is guided.

        A branch keeps its name from call to call: what the network hands to its own next call goes by it.
        """

    @abstractmethod
    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        """The guided velocity of every stream from the branches' velocities (keys as in `branches`)."""
