"""One time for all streams."""

import attrs
import torch

from vco.api import Process, ProcessSetting, Times
from vco_plugins.times import LogitNormalConfig, grid, logit_normal


class Shared(Process):
    """All streams share one time, logit-normal in training and uniformly spaced in sampling [JiT; V-Co].

    Source: JiT (arXiv 2511.13720); V-Co (arXiv 2603.16792).
    """

    @attrs.frozen(kw_only=True)
    class Config(LogitNormalConfig):
        """What a user may set."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.streams = tuple(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        t = logit_normal(batch, self.config.mean, self.config.std, generator)
        return dict.fromkeys(self.streams, t)

    def path(self, steps: int) -> Times:
        return dict.fromkeys(self.streams, grid(steps))
