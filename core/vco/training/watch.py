"""What the log says about forward passes beyond their losses: the loss by noise level, and how features are spread."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from vco.api import IMAGE, Streams, Times

LEVELS: Final = 5
"""Parts that the times from 0 (noise) to 1 (data) are cut into, all of one length."""


class Watch:
    """Looks at every forward pass without changing or drawing anything; all sums stay on the device."""

    def __init__(self) -> None:
        self.looks = False
        """Whether the next passes are also looked at for how their feature streams are spread, which costs more."""
        self.sums: dict[str, Tensor] = {}
        self.spread: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, clean: Streams, times: Times, errors: Streams) -> None:
        """Notes a forward pass.

        Args:
            clean: the clean streams.
            times: time of each sample [b] or token [b, n] in every stream.
            errors: denoising loss of each sample [b] of every stream; none if another loss takes its place.
        """
        for stream, error in errors.items():
            moments = times[stream] if times[stream].ndim == 1 else times[stream].mean(1)
            level = (moments * LEVELS).long().clamp(0, LEVELS - 1)
            member = level[:, None] == torch.arange(LEVELS, device=level.device)
            sums = torch.stack([(error.detach().float()[:, None] * member).sum(0), member.sum(0).float()])
            self.sums[stream] = self.sums[stream] + sums if stream in self.sums else sums
        if self.looks:
            for stream, value in clean.items():
                if stream != IMAGE and value.ndim == 3:
                    self.spread |= {f"{stream}.{name}": number for name, number in spread(value.detach()).items()}

    def packed(self) -> dict[str, Tensor]:
        """What was summed: stream -> [2, LEVELS] with losses and counts, or name -> a single number."""
        return {**self.sums, **self.spread}

    def clear(self) -> None:
        """Begins new sums."""
        self.sums, self.spread = {}, {}


def read(packed: Mapping[str, Tensor]) -> dict[str, float]:
    """The values to log, from what the processes have summed; a level that no sample fell into is left out."""
    values: dict[str, float] = {}
    for name, tensor in packed.items():
        if tensor.ndim == 0:
            values[name] = float(tensor)
            continue
        for level, (total, count) in enumerate(tensor.T.tolist()):
            low, high = (round(100 * bound / LEVELS) for bound in (level, level + 1))
            values |= {f"loss_at.{name}.{low}-{high}": total / count} if count else {}
    return values


def spread(tokens: Tensor) -> dict[str, Tensor]:
    """Size and richness of token features [b, n, d]: `rms`, and `effective_rank` in [1, d].

    The effective rank is exp(entropy of the covariance's eigenvalues, scaled to sum 1): d where all directions vary
    alike, 1 where a single one does.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        rows = tokens.float().flatten(0, 1)
        centered = rows - rows.mean(0)
        eigenvalues = torch.linalg.eigvalsh(centered.T @ centered / len(rows)).clamp_min(0.0)
        shares = eigenvalues / eigenvalues.sum().clamp_min(1e-30)
    return {"rms": rows.square().mean().sqrt(), "effective_rank": torch.special.entr(shares).sum().exp()}
