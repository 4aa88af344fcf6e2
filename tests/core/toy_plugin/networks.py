"""A network of a few numbers, and a codec that doubles."""

from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from vco import flow
from vco.api import (
    IMAGE,
    Backbone,
    BackboneSetting,
    Codec,
    CodecSetting,
    Condition,
    Denoised,
    Streams,
    StreamSpec,
    Tap,
    Times,
)


class Toy(Backbone):
    """Each pixel of its answer depends on that pixel, on its time, and on all that it is told about the sample."""

    supports_until: ClassVar[bool] = True
    supports_token_times: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(Backbone.Config):
        """What a user may set."""

        velocity: bool = False
        """Whether it predicts velocities, or clean images."""
        remembers: bool = False
        """Whether it tells itself the mean of its last answer."""
        tosses: int = 0
        """How many random numbers it wants with every training sample."""
        drops: bool = False
        """Whether it drops half of its answer in training, at random."""

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        super().__init__()
        self.config = config
        self.depth, self.width, self.grid = 2, 4, (4, 4)
        self.gain = nn.Parameter(torch.full((), 0.5))
        self.time = nn.Parameter(torch.full((), 0.3))
        self.way = nn.Parameter(torch.full((), 0.2))
        self.heard = nn.Parameter(torch.full((), 0.4))
        self.labels = nn.Parameter(torch.linspace(-1, 1, setting.num_classes + 1))
        self.draws = {"toss": (config.tosses,)} if config.tosses else {}

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        x = noisy[IMAGE]
        t = flow.spread(times[IMAGE], x)
        gap = flow.spread(condition.until[IMAGE], x) - t if IMAGE in condition.until else torch.zeros_like(t)
        told = self.labels[condition.labels]
        for name in ("last", "caption", "toss"):
            heard = condition.context[name].float().flatten(1).mean(1) if name in condition.context else 0 * told
            told = told + self.heard * heard
        answer = torch.tanh(self.gain * x + self.time * t + self.way * gap + told.view(-1, 1, 1, 1))
        if self.config.drops:
            answer = nn.functional.dropout(answer, training=self.training)
        tokens = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)[..., : self.width] * self.gain
        streams: Streams = {IMAGE: answer}
        return Denoised(
            clean={} if self.config.velocity else streams,
            velocity=streams if self.config.velocity else {},
            taps={k: Tap(tokens=k * tokens, positions=torch.arange(16, device=x.device)) for k in taps},
            context={"last": answer.mean((1, 2, 3))[:, None]} if self.config.remembers else {},
        )


class Blind(Toy):
    """Does not denoise the image stream."""

    streams: ClassVar[tuple[str, ...]] = ("features",)


class Deaf(Toy):
    """Cannot be told where a step goes."""

    supports_until: ClassVar[bool] = False


class Doubled(Codec):
    """Twice the pixels, plus a little noise."""

    def __init__(self, config: Codec.Config, setting: CodecSetting) -> None:
        super().__init__()
        self.config = config
        self.spec = StreamSpec(shape=setting.image_shape, noise_scale=config.noise_scale)
        self.noise_shape = setting.image_shape

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        return 2 * images if noise is None else 2 * images + 0.1 * noise

    def decode(self, stream: Tensor) -> Tensor:
        return stream / 2
