"""One time for all streams."""

import attrs
import torch

from vco.api import Process, Times


class Shared(Process):
    """All streams share one time, logit-normal in training and uniformly spaced in sampling [JiT; V-Co].

    Source: JiT (arXiv 2511.13720); V-Co (arXiv 2603.16792).
    """

    @attrs.frozen(kw_only=True)
    class Config(Process.Config):
        """What a user may set."""

        mean: float = -0.8
        """Mean of logit(t) in training; below 0 there is more noise than data."""
        std: float = attrs.field(default=0.8, validator=attrs.validators.gt(0.0))
        """Standard deviation of logit(t) in training, above 0."""

    def __init__(self, config: Config, *, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.streams = streams

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        normal = torch.randn(batch, generator=generator, device=generator.device, dtype=torch.float32)
        t = torch.sigmoid(self.config.mean + self.config.std * normal)
        return dict.fromkeys(self.streams, t)

    def path(self, steps: int) -> Times:
        return dict.fromkeys(self.streams, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
