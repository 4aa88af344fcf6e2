"""A small component of every kind that keeps all laws; `broken.py` breaks copies of this file, one line at a time."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs.validators import ge
from torch import Tensor, distributed, nn

from vco.api import (
    FEATURES,
    PIXELS,
    Adapted,
    Adapter,
    Backbone,
    Condition,
    Data,
    Denoised,
    Features,
    FeatureSource,
    Guidance,
    ImageSet,
    Loss,
    Noise,
    Process,
    Solver,
    Step,
    Streams,
    StreamSpec,
    Tap,
    Times,
    UserError,
    Velocity,
)


def patches(images: Tensor, side: int) -> Tensor:
    """Row-major patches [b, n, c * side^2]."""
    return nn.functional.unfold(images, side, stride=side).transpose(1, 2)


class Net(Backbone):
    """Two streams of tokens that see each other's mean."""

    streams: ClassVar[tuple[str, ...]] = (PIXELS, FEATURES)
    supports_blocking = True
    scale: Tensor
    embed: Any
    head: Any

    @attrs.frozen(kw_only=True)
    class Config(Backbone.Config):
        """What a user may set."""

        width: int = attrs.field(default=16, validator=ge(1))
        """Token width, at least 1."""
        gate: Literal["tanh", "relu"] = "tanh"
        """Nonlinearity."""

    def __init__(self, config: Config, *, streams: Mapping[str, StreamSpec], num_classes: int) -> None:
        super().__init__()
        self.blocks: Any
        if FEATURES not in streams:
            raise UserError("the network needs the stream 'features'; choose an adapter that makes it")
        self.config, self.depth, self.width = config, 3, config.width
        channels, height, width = streams[PIXELS].shape
        self.grid = (height // 2, width // 2)
        if streams[FEATURES].grid != self.grid:
            raise UserError(f"the grid of the features must be {self.grid}; choose other features")
        sizes = {PIXELS: channels * 4, FEATURES: streams[FEATURES].shape[1]}
        self.embed = nn.ModuleDict({name: nn.Linear(size, self.width) for name, size in sizes.items()})
        self.head = nn.ModuleDict({name: nn.Linear(self.width, size) for name, size in sizes.items()})
        self.label = nn.Embedding(num_classes + 1, self.width)
        self.time = nn.Linear(1, self.width)
        self.register_buffer("scale", torch.ones(1))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(2 * self.width, self.width) for name in sizes}) for _ in range(self.depth)
        )

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        c = self.label(condition.labels)[:, None] + self.time(times[PIXELS][:, None])[:, None]
        dtype = self.scale.dtype
        x = {PIXELS: patches(noisy[PIXELS].to(dtype), 2), FEATURES: noisy[FEATURES].to(dtype)}
        x = {name: self.embed[name](tokens) + c for name, tokens in x.items()}
        tapped: dict[int, Tap] = {}
        positions = torch.arange(x[PIXELS].shape[1], device=c.device)
        for number, block in enumerate(self.blocks, 1):
            x = {name: self.step(block[name], name, x, condition) for name in x}
            if number in taps:
                tapped[number] = Tap(tokens=x[PIXELS], positions=positions)
        clean = {name: self.head[name](tokens) for name, tokens in x.items()}
        side = noisy[PIXELS].shape[-2:]
        clean[PIXELS] = nn.functional.fold(clean[PIXELS].transpose(1, 2).float(), side, 2, stride=2)
        return Denoised(clean={name: value.to(noisy[name].dtype) for name, value in clean.items()}, taps=tapped)

    def step(self, layer: Any, name: str, x: Streams, condition: Condition) -> Tensor:
        """One stream after a block."""
        (key,) = x.keys() - {name}
        seen = x[key].mean(1, keepdim=True).expand_as(x[name])
        if (rows := condition.blocked.get((name, key))) is not None:
            seen = torch.where(rows[:, None, None], 0.0, seen)
        return x[name] + torch.tanh(layer(torch.cat([x[name], seen], -1))) / 2


class Eyes(FeatureSource):
    """A frozen random layer over patches of four pixels."""

    layer: Any

    def __init__(self, config: FeatureSource.Config, *, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        channels, height, width = image_shape
        if height % 4 or width % 4:
            raise UserError(f"the image size {height}x{width} is not a multiple of 4; choose other data")
        self.size, self.grid = channels * 16, (height // 4, width // 4)
        self.spec = StreamSpec(shape=(self.grid[0] * self.grid[1], 12), grid=self.grid)

    def load(self) -> None:
        draws = torch.Generator().manual_seed(3)
        self.layer = nn.Linear(self.size, 12)
        self.dropout = nn.Dropout(0.5)
        for parameter in self.layer.parameters():
            nn.init.normal_(parameter, std=0.2, generator=draws)

    def forward(self, images: Tensor) -> Features:
        tokens = self.dropout(torch.tanh(self.layer(patches(images.float(), 4)).float()))
        return Features(tokens=tokens, grid=self.grid, pooled=tokens.mean(1))


class Lens(Adapter):
    """Standardised features through a learned layer."""

    needs_fit = True
    mean: Tensor

    def __init__(self, config: Adapter.Config, *, features: StreamSpec) -> None:
        super().__init__()
        self.config, self.features = config, features
        self.layer = nn.Linear(features.shape[1], 8)
        self.register_buffer("mean", torch.zeros(features.shape[1]))
        self.register_buffer("seen", torch.zeros(()))

    def specs(self) -> dict[str, StreamSpec]:
        return {FEATURES: attrs.evolve(self.features, shape=(self.features.shape[0], 8))}

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Features]]) -> None:
        total, count = torch.zeros(self.features.shape[1], dtype=torch.float64), 0
        for _, features in batches:
            total += features.tokens.double().sum((0, 1))
            count += features.tokens[..., 0].numel()
        self.mean.copy_(total / count)

    def forward(self, features: Features) -> Adapted:
        value = self.layer(features.tokens.float() - self.mean).to(features.tokens.dtype)
        losses = {"size": value.float().square().mean()}
        return Adapted(value={FEATURES: value}, target={FEATURES: value.detach()}, losses=losses)


class Near(Loss):
    """Distance of the features of the predicted image to those of the clean one."""

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        root: bool = False
        """Whether the root of the distance is taken."""

    def __init__(self, config: Config, *, width: int, tap_grid: Any, features: StreamSpec | None) -> None:
        super().__init__()
        self.config = config

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        generated, real = step.generated.tokens.float(), step.real.tokens.detach().float()
        return {"near": (generated - real).square().mean((1, 2))}


class Head(Loss):
    """Distance of a projected tap to the features."""

    def __init__(self, config: Loss.Config, *, width: int, tap_grid: Any, features: StreamSpec | None) -> None:
        super().__init__()
        assert features is not None
        self.config = config
        self.layer = nn.Linear(width, features.shape[1])

    @property
    def taps(self) -> tuple[int, ...]:
        return (2,)

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        tap = step.denoised.taps[2]
        target = step.features.tokens[:, tap.positions].detach().float()
        return {"head": (self.layer(tap.tokens.float()).float() - target).square().mean((1, 2))}


class Mates(Loss):
    """Distance of each image's features to the mean of its class, in units of its mean over all processes."""

    grouped: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True

    def __init__(self, config: Loss.Config, *, width: int, tap_grid: Any, features: StreamSpec | None) -> None:
        super().__init__()
        self.config = config

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        pooled, same = step.generated.pooled.float(), (step.labels[:, None] == step.labels).float()
        with torch.autocast(pooled.device.type, enabled=False):
            mean = same @ pooled / same.sum(1, keepdim=True)
            distance = (pooled - mean).square().sum(1) + (pooled - step.real.pooled.detach().float()).square().sum(1)
            scale = distance.detach().mean()
            if distributed.is_initialized():
                distributed.all_reduce(scale)
                scale = scale / distributed.get_world_size()
        return {"mates": distance / scale}


class Guide(Guidance):
    """Classifier-free guidance inside an interval, which hides the features too."""

    needs_blocking = True

    @attrs.frozen(kw_only=True)
    class Config(Guidance.Config):
        """What a user may set."""

        scale: float = attrs.field(default=2.0, validator=ge(0.0), metadata={"sampling": True})
        """Guidance scale, at least 0."""
        low: float = attrs.field(default=0.1, validator=ge(0.0))
        """Guided above this time."""
        high: float = attrs.field(default=1.0, validator=ge(0.0))
        """Guided below this time."""
        drop: float = attrs.field(default=0.1, validator=ge(0.0))
        """Share of samples from which label and features are hidden."""

    def __init__(self, config: Config, *, streams: Mapping[str, StreamSpec], num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes

    def condition(self, labels: Tensor, generator: torch.Generator) -> Condition:
        return self.hide(labels, torch.rand(len(labels), generator=generator) < self.config.drop)

    def hide(self, labels: Tensor, rows: Tensor) -> Condition:
        """The condition whose rows lack label and features."""
        return Condition(
            labels=torch.where(rows, self.num_classes, labels),
            blocked={(PIXELS, FEATURES): rows},
            nulled={FEATURES: rows},
            supervised={FEATURES: ~rows},
        )

    def branches(self, labels: Tensor, times: Mapping[str, float]) -> dict[str, Condition]:
        branches = {"all": Condition(labels=labels)}
        if any(self.strength(t) != 1 for t in times.values()):
            branches["null"] = self.hide(labels, torch.ones_like(labels, dtype=torch.bool))
        return branches

    def combine(self, velocities: Mapping[str, Streams], times: Mapping[str, float]) -> Streams:
        full = velocities["all"]
        null = velocities.get("null", full)
        return {
            name: v if self.strength(times[name]) == 1 else null[name] + self.strength(times[name]) * (v - null[name])
            for name, v in full.items()
        }

    def strength(self, t: float) -> float:
        """The scale at this time."""
        inside = (self.config.low == 0 or t > self.config.low) and t < self.config.high
        return self.config.scale if inside else 1.0


class Clock(Process):
    """Uniform times, the features' ahead of the pixels'."""

    @attrs.frozen(kw_only=True)
    class Config(Process.Config):
        """What a user may set."""

        power: float = attrs.field(default=1.0, validator=ge(0.1), metadata={"sampling": True})
        """Power of the even sampling times; above 1 steps are finer near noise."""

    def __init__(self, config: Config, *, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.config, self.streams = config, streams

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        t = torch.rand(batch, generator=generator)
        return {name: t if name == PIXELS else t.sqrt() for name in self.streams}

    def path(self, steps: int) -> Times:
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** self.config.power
        return {name: t.clone() if name == PIXELS else t.sqrt() for name in self.streams}

    def weight(self, times: Times) -> Times:
        return {name: 1 / (1.1 - t) for name, t in times.items()}


class Midpoint(Solver):
    """The midpoint rule; the last step is Euler's."""

    def __init__(self, config: Solver.Config) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        steps = len(next(iter(path.values()))) - 1
        for k in range(steps):
            now = {name: t[k].item() for name, t in path.items()}
            half = {name: (now[name] + t[k + 1].item()) / 2 for name, t in path.items()}
            h = {name: t[k + 1].item() - now[name] for name, t in path.items()}
            slope = velocity(state, now)
            if k < steps - 1:
                middle = {n: x + h[n] / 2 * slope[n].float() if h[n] else x for n, x in state.items()}
                slope = velocity(middle, half)
            state = {n: x + h[n] * slope[n].float() if h[n] else x for n, x in state.items()}
        return state


class Jitter(Solver):
    """Euler's method with the score's share of noise, none in the last step."""

    def __init__(self, config: Solver.Config) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        steps = len(next(iter(path.values()))) - 1
        for k in range(steps):
            slope = velocity(state, {name: t[k].item() for name, t in path.items()})
            fresh = noise(k)
            after: Streams = {}
            for name, x in state.items():
                t, h = path[name][k].item(), (path[name][k + 1] - path[name][k]).item()
                drift = x + h * slope[name].float() if h else x
                if h and k < steps - 1:
                    drift = drift + h * (t * slope[name].float() - x) + (2 * (1 - t) * h) ** 0.5 * fresh[name]
                after[name] = drift
            state = after
        return state


class Dots(Data):
    """Gray squares whose brightness is their class."""

    num_classes = 3
    image_shape = (1, 4, 4)

    def __init__(self, config: Data.Config) -> None:
        self.config = config

    def train(self) -> ImageSet:
        return _Dots(300, 0)

    def test(self) -> ImageSet:
        return _Dots(60, 1)


class _Dots(ImageSet):
    def __init__(self, size: int, key: int) -> None:
        draws = torch.Generator().manual_seed(key)
        self.labels = torch.arange(size) % 3
        noise = torch.randint(0, 60, (size, 1, 4, 4), generator=draws)
        self.images = (self.labels[:, None, None, None] * 90 + noise).clamp(0, 255).to(torch.uint8)

    def image(self, index: int, generator: torch.Generator | None) -> Tensor:
        image = self.images[index].clone()
        if generator is not None and torch.rand((), generator=generator) < 0.5:
            image = image.flip(-1)
        return image
