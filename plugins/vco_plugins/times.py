"""What the processes are made of: draws of times, the shift of a time, and which streams may go their own way."""

import math
from collections.abc import Mapping

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from vco.api import IMAGE, Process, StreamSpec, UserError

Draws = Float[Tensor, " b"]
"""One random number a sample."""


@attrs.frozen(kw_only=True)
class LogitNormalConfig(Process.Config):
    """What a user may set; common to processes that draw a logit-normal time."""

    mean: float = -0.8
    """Mean of logit(t) in training; below 0 there is more noise than data."""
    std: float = attrs.field(default=0.8, validator=attrs.validators.gt(0.0))
    """Standard deviation of logit(t) in training, above 0."""


def normal(batch: int, generator: torch.Generator) -> Draws:
    """Returns standard normal float32 draws, on the generator's device."""
    return torch.randn(batch, generator=generator, device=generator.device, dtype=torch.float32)


def logit_normal(batch: int, mean: float, std: float, generator: torch.Generator) -> Draws:
    """Returns sigmoid(mean + std * n) for standard normal n, float32 on the generator's device."""
    return torch.sigmoid(mean + std * normal(batch, generator))


def uniform(batch: int, generator: torch.Generator) -> Draws:
    """Returns float32 draws from (0, 1], on the generator's device."""
    return 1 - torch.rand(batch, generator=generator, device=generator.device, dtype=torch.float32)


def along(steps: int, lead: float) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    """Returns times of the image and of features that lead it, t_features = shift(t_image, lead), for so many steps.

    Steps follow the length of that curve: of all times at which one of both is a multiple of 1 / steps, every second
    one is kept.
    """
    half = math.sqrt(lead)  # both times as shifts of one that lies between them
    even = grid(steps)
    between = torch.cat([shift(even, half), shift(even, 1 / half)]).sort().values[::2]
    return shift(between, 1 / half), shift(between, half)


def grid(steps: int) -> Float[Tensor, " points"]:
    """Returns steps + 1 evenly spaced float64 times from 0 to 1."""
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def shift(t: Float[Tensor, " n"], factor: float) -> Float[Tensor, " n"]:
    """Returns the time whose signal-to-noise ratio t / (1 - t) is `factor` times as large; 0 and 1 stay exactly.

    It equals factor * t / (1 + (factor - 1) * t), and undoes a shift by 1 / factor.

    Source: Esser et al. (arXiv 2403.03206), section 5.3.2, in their own time direction.
    """
    return factor * t / (1 - t + factor * t)


def other_streams(streams: Mapping[str, StreamSpec]) -> tuple[str, ...]:
    """Returns the streams other than the image; raises `UserError` if there are none."""
    others = tuple(name for name in streams if name != IMAGE)
    if not others:
        raise UserError(
            f"this process gives the features a time of their own, but the run has only the stream {IMAGE!r}: "
            "choose a backbone and an adapter that make a feature stream, or --process shared"
        )
    return others
