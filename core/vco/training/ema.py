"""Running averages (EMA) of everything a run trains."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vco.pieces import local


class EMA:
    """Several exponential moving averages of a module's parameters and buffers, one per decay rate.

    theta_ema <- decay * theta_ema + (1 - decay) * theta after each step, from theta_ema = theta at the start (EDM,
    appendix; JiT keeps two). Buffers that are not floating point are copied. `torch.optim.swa_utils.AveragedModel`
    does the same but reads a counter back from the device at every step, which makes the host wait.
    """

    def __init__(self, module: nn.Module, decays: Sequence[float], first: Mapping[str, Tensor] | None = None) -> None:
        """Begins where the module is.

        Args:
            module: what is averaged; of weights that processes share out, each averages its own rows.
            decays: a rate for each average.
            first: tensors that the first average is to live in, equal to the module's; by default new ones.
        """
        self.decays = tuple(decays)
        self.module = module
        self.averages: list[dict[str, Tensor]] = [
            {name: value.detach().clone() for name, value in module.state_dict().items()}
            for _ in self.decays[0 if first is None else 1 :]
        ]
        if first is not None and self.decays:
            self.averages.insert(0, dict(first))

    @torch.no_grad()
    def update(self) -> None:
        """Moves every average towards the module's present values."""
        current = self.module.state_dict()
        floating = [name for name, value in current.items() if value.is_floating_point()]
        for decay, average in zip(self.decays, self.averages, strict=True):
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
                [local(average[n]) for n in floating], [local(current[n]) for n in floating], 1.0 - decay
            )
            for name in current.keys() - set(floating):
                local(average[name]).copy_(local(current[name]))
