"""The contract of processes: the times of the streams in training and in sampling."""

from abc import abstractmethod
from collections.abc import Mapping

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vco.api.backbone import Denoised
from vco.api.component import Component
from vco.api.streams import StreamSpec, Times


@attrs.frozen(kw_only=True)
class ProcessSetting:
    """What a process is told of the run."""

    streams: Mapping[str, StreamSpec]
    """Every stream of the run."""


class Process(Component, nn.Module):
    """The joint law of the streams' times in training, and their path in sampling.

    Constructed as `Class(config, ProcessSetting)`. It may have parameters: times and weights then carry gradients.
    """

    @abstractmethod
    def sample(self, batch: int, generator: torch.Generator) -> Times:
        """Training times per stream, float32 [batch] or [batch, n] in [0, 1], on the generator's device.

        Called with the size of the whole global batch, on the CPU.
        """

    @abstractmethod
    def path(self, steps: int) -> Times:
        """Sampling times, float64 [steps + 1] per stream, never decreasing, from 0 to 1."""

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Times, Times]:
        """Training times and their weights; for processes in which times do not tell the weights. Default: both."""
        times = self.sample(batch, generator)
        return times, self.weight(times)

    def weight(self, times: Times) -> Times:
        """Factor of the denoising loss per stream, of the shape of its times. Default: 1."""
        return {stream: torch.ones_like(t) for stream, t in times.items()}

    def losses(self, times: Times, denoised: Denoised) -> Mapping[str, Float[Tensor, ""]]:
        """Its own regularisers, already weighted, which are added to the total. Default: none.

        Args:
            times: the times that the network was asked about.
            denoised: its answer, with both the clean prediction and the velocity of every stream.
        """
        return {}
