"""Features of all images, for metrics that compare images one by one: 4 bytes per number, on the CPU."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vco.api import Features, Metric, MetricSetting, UserError

GENERATED, REAL = "generated", "real"


class Gathered:
    """Rows of features of generated and of real images.

    50,000 images with 2,048 numbers each take 400 MB; every process gets the rows of all. The order of the rows says
    nothing: it depends on the number of processes, so no score may depend on it.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {GENERATED: [], REAL: []}

    def add(self, rows: Float[Tensor, "b d"], generated: bool) -> None:
        """Keeps a copy of some more rows."""
        self._parts[GENERATED if generated else REAL].append(rows.detach().float().cpu().clone())

    def state(self) -> Mapping[str, Tensor]:
        """The rows of each kind; a kind without rows is left out."""
        return {kind: torch.cat(parts) for kind, parts in self._parts.items() if parts}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Replaces the rows by those of several states."""
        self._parts = {kind: [state[kind].cpu() for state in states if kind in state] for kind in self._parts}

    def counts(self) -> dict[str, int]:
        """The number of generated and of real images."""
        return {kind: sum(map(len, parts)) for kind, parts in self._parts.items()}

    def require(self, least: int, metric: str) -> None:
        """Raises `UserError` if there are fewer generated or real images than a metric needs."""
        require_images(self.counts(), least, metric)

    def both(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        """Features of the generated and of the real images, float64, on the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        generated, real = (torch.cat(self._parts[kind]).to(device).double() for kind in (GENERATED, REAL))
        return generated, real


def require_images(counts: Mapping[str, int | None], least: int, metric: str) -> None:
    """Raises `UserError` if a metric needs more images.

    Args:
        counts: the number of generated and of real images; None where nobody has noted it.
        least: the smallest number of either.
        metric: what is measured, as in "precision".
    """
    few = [kind for kind in (GENERATED, REAL) if (count := counts[kind]) is not None and count < least]
    if few:
        more = f"set --eval.samples to at least {least}" if GENERATED in few else "hold them against more real images"
        raise UserError(
            f"for the {metric} at least {least} generated and {least} real images are needed, and there are "
            f"{counts[GENERATED]} and {counts[REAL]}: {more}"
        )


class PairwiseMetric(Metric):
    """A metric that compares pooled features image by image; what is left to it is `score`."""

    def __init__(self, config: Metric.Config, setting: MetricSetting) -> None:
        self.config = config
        self.setting = setting
        self.gathered = Gathered()

    def update(self, images: UInt8[Tensor, "b c h w"], features: Features | None, generated: bool) -> None:
        assert features is not None, "a metric that needs features gets them"
        self.gathered.add(features.pooled, generated)

    def state(self) -> Mapping[str, Tensor]:
        return self.gathered.state()

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self.gathered.merge(states)
