"""Independent times in training, so that sampling may take any path."""

import attrs
import torch
from attrs.validators import gt

from vco.api import IMAGE, Process, ProcessSetting, Times
from vco_plugins.times import along, other_streams, shift, uniform


class Independent(Process):
    """Pixels and features get independent times in training; in sampling one may lead [Latent Forcing].

    Training: t = shift(u, 0.5) = (u / 2) / (1 - u / 2) of uniform u, drawn for the image and again for the features
    (all other streams, together). Sampling: t_features = shift(t_image, lead), with steps that follow the length of
    that curve: of all times at which one of the streams is a multiple of 1 / steps, every second one is kept.

    Wants a backbone that is told both times (--backbone.time-embedding separate).

    Raises:
        UserError: If the image is the only stream.

    Source: Latent Forcing (arXiv 2602.11401), the multi-schedule variant.
    """

    @attrs.frozen(kw_only=True)
    class Config(Process.Config):
        """What a user may set."""

        shift: float = attrs.field(default=0.5, validator=gt(0.0))
        """Factor of the signal-to-noise ratio of uniform training times, above 0; below 1 there is more noise."""
        lead: float = attrs.field(default=1.0, validator=gt(0.0), metadata={"sampling": True})
        """Ratio of the features' signal-to-noise ratio to the image's in sampling, above 0; above 1 features lead."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config = config
        self.others = other_streams(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        image, features = (shift(uniform(batch, generator), self.config.shift) for _ in range(2))
        return {IMAGE: image, **dict.fromkeys(self.others, features)}

    def path(self, steps: int) -> Times:
        image, features = along(steps, self.config.lead)
        return {IMAGE: image, **dict.fromkeys(self.others, features)}
