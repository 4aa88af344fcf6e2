"""Running averages (EMA) of everything a run trains."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EMA:
    """Several exponential moving averages of a module's parameters and buffers, one per decay rate.

    theta_ema <- decay * theta_ema + (1 - decay) * theta after each step, from theta_ema = theta at the start (EDM,
    appendix; JiT keeps two). Buffers that are not floating point are copied. `torch.optim.swa_utils.AveragedModel`
    does the same but reads a counter back from the device at every step, which makes the host wait.
    """

    def __init__(self, module: nn.Module, decays: Sequence[float]) -> None:
        self.decays = tuple(decays)
        self.module = module
        self.averages: list[dict[str, Tensor]] = [
            {name: value.detach().clone() for name, value in module.state_dict().items()} for _ in decays
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Moves every average towards the module's present values."""
        current = self.module.state_dict()
        floating = [name for name, value in current.items() if value.is_floating_point()]
        for decay, average in zip(self.decays, self.averages, strict=True):
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
                [average[n] for n in floating], [current[n] for n in floating], 1.0 - decay
            )
            for name in current.keys() - set(floating):
                average[name].copy_(current[name])
