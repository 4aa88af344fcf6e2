"""The process `my-process`: how noisy each stream is, in training and on the way through sampling.

The contract is `vco.api.Process`. Times run from 0 = noise to 1 = data; each stream may have its own.
"""

import attrs
import torch
from attrs.validators import gt

from vco.api import Process, ProcessSetting, Times


class MyProcess(Process):
    """All streams share one time, which is logit-normal in training and evenly spaced in sampling."""

    @attrs.frozen(kw_only=True)
    class Config(Process.Config):
        """What a user may set."""

        mean: float = -0.8
        """Mean of logit(t) in training; the lower, the noisier."""
        std: float = attrs.field(default=0.8, validator=gt(0.0))
        """Standard deviation of logit(t) in training, above 0."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        """A process that makes no sense without a certain stream raises `vco.api.UserError` here."""
        super().__init__()
        self.config = config
        self.streams = tuple(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        """Training: float32 times [batch] of every stream; every draw comes from `generator`.

        Times [batch, n], one for each token of a stream, are for backbones that understand them.
        """
        normal = torch.randn(batch, generator=generator, device=generator.device, dtype=torch.float32)
        t = torch.sigmoid(self.config.mean + self.config.std * normal)
        return dict.fromkeys(self.streams, t)

    def path(self, steps: int) -> Times:
        """Sampling: float64 times [steps + 1] of every stream, from 0 to 1, never going back.

        It visits only combinations of times that `sample` draws too; the network knows no others.
        """
        return dict.fromkeys(self.streams, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
