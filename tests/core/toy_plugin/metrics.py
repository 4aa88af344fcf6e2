"""A metric that needs no encoder."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from vco.api import Features, Metric, MetricSetting, Score


class Brightness(Metric):
    """How much brighter generated images are than real ones, in gray levels."""

    needs_features: ClassVar[bool] = False

    def __init__(self, config: Metric.Config, setting: MetricSetting) -> None:
        self.config = config
        self.sums = torch.zeros(2, 2, dtype=torch.float64)  # of the images, and their number; generated, and real

    def update(self, images: Tensor, features: Features | None, generated: bool) -> None:
        assert features is None
        levels = images.double().mean((1, 2, 3))
        self.sums[0 if generated else 1] += torch.stack([levels.sum(), torch.tensor(float(len(levels)))])

    def state(self) -> Mapping[str, Tensor]:
        return {"sums": self.sums}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self.sums = torch.stack([state["sums"] for state in states]).sum(0)

    def score(self) -> Score:
        generated, real = (self.sums[:, 0] / self.sums[:, 1]).tolist()
        return Score(name="brightness", value=generated - real, protocol={"images": int(self.sums[0, 1])})
