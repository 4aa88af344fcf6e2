"""One time for all streams."""

from typing import Literal

import attrs
import torch
from attrs.validators import in_

from vco.api import Process, ProcessSetting, Times
from vco_plugins.times import LogitNormalConfig, grid, logit_normal, uniform


class Shared(Process):
    """All streams share one time, logit-normal or uniform in training and evenly spaced in sampling [JiT; V-Co; SiT].

    Source: JiT (arXiv 2511.13720); V-Co (arXiv 2603.16792); SiT (arXiv 2401.08740) and REPA (arXiv 2410.06940), whose
        times are uniform.
    """

    @attrs.frozen(kw_only=True)
    class Config(LogitNormalConfig):
        """What a user may set; mean and std are those of the law logit-normal."""

        law: Literal["logit-normal", "uniform"] = attrs.field(
            default="logit-normal", validator=in_(("logit-normal", "uniform"))
        )
        """Law of the training times."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.streams = tuple(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        config = self.config
        if config.law == "uniform":
            t = uniform(batch, generator)
        else:
            t = logit_normal(batch, config.mean, config.std, generator)
        return dict.fromkeys(self.streams, t)

    def path(self, steps: int) -> Times:
        return dict.fromkeys(self.streams, grid(steps))
