"""A small component of every kind that keeps all laws; `broken.py` breaks copies of this file, one line at a time."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs.validators import ge
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vco import flow
from vco.api import (
    FEATURES,
    IMAGE,
    Adapted,
    Adapter,
    AdapterSetting,
    Backbone,
    BackboneSetting,
    Blocks,
    Codec,
    CodecSetting,
    Condition,
    Data,
    DataSetting,
    Denoised,
    Features,
    FeatureSetting,
    FeatureSource,
    FeatureSpec,
    Guidance,
    GuidanceSetting,
    ImageSet,
    Loss,
    LossSetting,
    Metric,
    MetricSetting,
    Moments,
    Noise,
    Optimizer,
    OptimizerSetting,
    ParameterGroup,
    Process,
    ProcessSetting,
    ReadsFeatures,
    Score,
    Solver,
    SolverSetting,
    Step,
    Streams,
    StreamSpec,
    Tap,
    Times,
    UserError,
    Velocity,
    chosen_features,
    sum_over_processes,
)


def patches(images: Tensor, side: int) -> Tensor:
    """Row-major patches [b, n, c * side^2]."""
    return nn.functional.unfold(images, side, stride=side).transpose(1, 2)


class Net(Backbone):
    """Two streams of tokens that see each other's mean."""

    streams: ClassVar[tuple[str, ...]] = (IMAGE, FEATURES)
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

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        super().__init__()
        self.blocks: Any
        streams = setting.streams
        if FEATURES not in streams:
            raise UserError("the network needs the stream 'features'; choose an adapter that makes it")
        self.config, self.depth, self.width = config, 3, config.width
        channels, height, width = streams[IMAGE].shape
        if height % 2 or width % 2:
            raise UserError(f"an image stream of {height}x{width} has no squares of 2x2; choose other data")
        self.grid = (height // 2, width // 2)
        if streams[FEATURES].grid != self.grid:
            raise UserError(f"the grid of the features must be {self.grid}; choose other features")
        sizes = {IMAGE: channels * 4, FEATURES: streams[FEATURES].shape[1]}
        self.embed = nn.ModuleDict({name: nn.Linear(size, self.width) for name, size in sizes.items()})
        self.head = nn.ModuleDict({name: nn.Linear(self.width, size) for name, size in sizes.items()})
        self.label = nn.Embedding(setting.num_classes + 1, self.width)
        self.time = nn.Linear(1, self.width)
        self.register_buffer("scale", torch.ones(1))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(2 * self.width, self.width) for name in sizes}) for _ in range(self.depth)
        )

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        c = self.label(condition.labels)[:, None] + self.time(times[IMAGE][:, None])[:, None]
        dtype = self.scale.dtype
        x = {IMAGE: patches(noisy[IMAGE].to(dtype), 2), FEATURES: noisy[FEATURES].to(dtype)}
        x = {name: self.embed[name](tokens) + c for name, tokens in x.items()}
        tapped: dict[int, Tap] = {}
        positions = torch.arange(x[IMAGE].shape[1], device=c.device)
        for number, block in enumerate(self.blocks, 1):
            x = {name: self.step(block[name], name, x, condition) for name in x}
            if number in taps:
                tapped[number] = Tap(tokens=x[IMAGE], positions=positions)
        clean = {name: self.head[name](tokens) for name, tokens in x.items()}
        side = noisy[IMAGE].shape[-2:]
        clean[IMAGE] = nn.functional.fold(clean[IMAGE].transpose(1, 2).float(), side, 2, stride=2)
        return Denoised(clean={name: value.to(noisy[name].dtype) for name, value in clean.items()}, taps=tapped)

    def step(self, layer: Any, name: str, x: Streams, condition: Condition) -> Tensor:
        """One stream after a block."""
        (key,) = x.keys() - {name}
        seen = x[key].mean(1, keepdim=True).expand_as(x[name])
        if (rows := condition.blocked.get((name, key))) is not None:
            seen = torch.where(rows[:, None, None], 0.0, seen)
        return x[name] + torch.tanh(layer(torch.cat([x[name], seen], -1))) / 2


class Thin(Backbone):
    """One stream of tokens of which training keeps some; understands times of tokens, and where a step goes.

    It guesses the mean of an encoder's tokens.
    """

    needs_features: ClassVar[bool] = True
    hands_out: ClassVar[tuple[str, ...]] = ("seen",)
    supports_until: ClassVar[bool] = True
    embed: Any
    head: Any
    blocks: Any

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Backbone.Config):
        """What a user may set."""

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        super().__init__()
        self.config, self.depth, self.width = config, 3, 12
        channels, height, width = setting.streams[IMAGE].shape
        if height % 2 or width % 2:
            raise UserError(f"an image stream of {height}x{width} has no squares of 2x2; choose other data")
        self.grid = (height // 2, width // 2)
        self.tokens = self.grid[0] * self.grid[1]
        self.draws = {"order": (self.tokens,)}
        self.embed, self.head = nn.Linear(4 * channels, self.width), nn.Linear(self.width, 4 * channels)
        self.label = nn.Embedding(setting.num_classes + 1, self.width)
        self.time = nn.Linear(1, self.width)
        self.ahead = nn.Linear(1, self.width) if setting.until else None
        _, spec = chosen_features(setting.features, config.features)
        self.guess = nn.Linear(self.width, spec.tokens[1])
        self.blocks = nn.ModuleList(nn.Linear(2 * self.width, self.width) for _ in range(self.depth))

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        x = patches(noisy[IMAGE].to(self.label.weight.dtype), 2)
        t = self.of_tokens(times[IMAGE]).to(x.dtype)
        x = self.embed(x) + self.label(condition.labels)[:, None] + self.time(t)
        if self.ahead is not None:
            until = self.of_tokens(condition.until[IMAGE]) if condition.until else t
            x = x + torch.tanh(self.ahead(until.to(x.dtype) - t))
        whole, kept = x, torch.arange(self.tokens, device=x.device)
        if "order" in condition.context:
            kept = condition.context["order"].argsort(1)[:, : self.tokens - 2]
        tapped: dict[int, Tap] = {}
        for number, block in enumerate(self.blocks, 1):
            if number == 2 and kept.ndim == 2:  # the middle block sees some of the tokens
                x = x.gather(1, kept[..., None].expand(-1, -1, self.width))
            x = x + torch.tanh(block(torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], -1))) / 2
            if number in taps:
                routed = number == 2 and kept.ndim == 2
                positions = kept if routed else torch.arange(self.tokens, device=x.device)
                tapped[number] = Tap(tokens=x, positions=positions)
            if number == 2 and kept.ndim == 2:
                x = whole.scatter(1, kept[..., None].expand(-1, -1, self.width), x)
        side, dtype = noisy[IMAGE].shape[-2:], noisy[IMAGE].dtype
        velocity = nn.functional.fold(self.head(x).transpose(1, 2).float(), side, 2, stride=2).to(dtype)
        return Denoised(velocity={IMAGE: velocity}, taps=tapped, context={"seen": self.guess(x.mean(1))})

    def block_modules(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def of_tokens(self, times: Tensor) -> Tensor:
        """Times [b] or [b, n] as [b, n, 1]."""
        return (times[:, None] if times.ndim == 1 else times).expand(-1, self.tokens)[..., None]


class Fold(Codec):
    """Squares of pixels stacked in channels, times a gain; encoding may add a little noise."""

    weight: Tensor

    @attrs.frozen(kw_only=True)
    class Config(Codec.Config):
        """What a user may set."""

        gain: float = attrs.field(default=0.5, validator=ge(0.01))
        """Factor of the stream, at least 0.01."""

    def __init__(self, config: Config, setting: CodecSetting) -> None:
        super().__init__()
        self.config = config
        channels, height, width = setting.image_shape
        if height % 2 or width % 2:
            raise UserError(f"the image size {height}x{width} is odd; choose other data")
        shape = (4 * channels, height // 2, width // 2)
        self.spec = StreamSpec(shape=shape, noise_scale=config.noise_scale)
        self.noise_shape = shape

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        folded = nn.functional.pixel_unshuffle(images, 2)
        return self.config.gain * (folded if noise is None else folded + 0.01 * noise)

    def decode(self, stream: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(stream / self.config.gain, 2)


class Eyes(FeatureSource):
    """A frozen random layer over patches of four pixels."""

    layer: Any

    def __init__(self, config: FeatureSource.Config, setting: FeatureSetting) -> None:
        super().__init__()
        self.config = config
        channels, height, width = setting.image_shape
        if height % 4 or width % 4:
            raise UserError(f"the image size {height}x{width} is not a multiple of 4; choose other data")
        self.size, self.grid = channels * 16, (height // 4, width // 4)
        self.spec = FeatureSpec(tokens=(self.grid[0] * self.grid[1], 12), grid=self.grid)

    def load(self) -> None:
        draws = torch.Generator().manual_seed(3)
        self.layer = nn.Linear(self.size, 12)
        self.dropout = nn.Dropout(0.5)
        for parameter in self.layer.parameters():
            nn.init.normal_(parameter, std=0.2, generator=draws)

    def forward(self, images: Tensor) -> Features:
        tokens = self.dropout(torch.tanh(self.layer(patches(images.float(), 4)).float()))
        perceived = Features(tokens=2 * tokens, grid=self.grid, pooled=2 * tokens.mean(1))
        return Features(tokens=tokens, grid=self.grid, pooled=tokens.mean(1), perceived=perceived)

    def perceive(self, images: Tensor) -> Features:
        seen = self(images)
        return Features(tokens=seen.tokens * 2, grid=self.grid, pooled=seen.pooled * 2)

    def block_modules(self) -> Sequence[nn.Module]:
        return [self.layer]


class Lens(Adapter):
    """Standardised features through a learned layer."""

    needs_fit = True
    mean: Tensor

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Adapter.Config):
        """What a user may set."""

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.spec = chosen_features(setting.features, config.features)
        self.layer = nn.Linear(self.spec.tokens[1], 8)
        self.register_buffer("mean", torch.zeros(self.spec.tokens[1]))
        self.register_buffer("seen", torch.zeros(()))

    def specs(self) -> dict[str, StreamSpec]:
        return {FEATURES: StreamSpec(shape=(self.spec.tokens[0], 8), grid=self.spec.grid)}

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Mapping[str, Features]]]) -> None:
        total, count = torch.zeros(self.spec.tokens[1], dtype=torch.float64), 0
        for _, features in batches:
            tokens = features[self.encoder].tokens
            total += tokens.double().sum((0, 1))
            count += tokens[..., 0].numel()
        self.mean.copy_(total / count)

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        tokens = features[self.encoder].tokens
        value = self.layer(tokens.float() - self.mean).to(tokens.dtype)
        losses = {"size": value.float().square().mean()}
        return Adapted(value={FEATURES: value}, target={FEATURES: value.detach()}, losses=losses)


class Near(Loss):
    """Distance of the features of the predicted image to those of the clean one."""

    @attrs.frozen(kw_only=True)
    class Config(ReadsFeatures, Loss.Config):
        """What a user may set."""

        root: bool = False
        """Whether the root of the distance is taken."""

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, _ = chosen_features(setting.features, config.features)

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        generated, real = step.generated(self.encoder).tokens.float(), step.real(self.encoder).tokens.float()
        return {"near": (generated - real).square().mean((1, 2)) ** (0.5 if self.config.root else 1.0)}


class Head(Loss):
    """Distance of a projected tap to the features, and of the predicted feature stream to its target."""

    def __init__(self, config: Loss.Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config
        self.encoder, spec = chosen_features(setting.features, "")
        self.layer = nn.Linear(setting.width, spec.tokens[1])

    @property
    def taps(self) -> tuple[int, ...]:
        return (2,)

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        tap = step.denoised.taps[2]
        target = tap.of(step.features(self.encoder).tokens).float()
        stream = step.denoised.clean[FEATURES].float() - step.target[FEATURES].detach().float()
        head = (self.layer(tap.tokens.float()).float() - target).square().mean((1, 2))
        return {"head": head, "stream": stream.square().mean((1, 2))}


class Echo(Loss):
    """A tap is what the average of the network says at a later, random time, of a deeper block."""

    needs_features: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(Loss.Config):
        """What a user may set."""

        blend: float = attrs.field(default=1.0, validator=ge(0.0))
        """Weight of the distance to the deeper block of the network itself, at least 0."""

    config: Config

    def __init__(self, config: Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config

    @property
    def taps(self) -> tuple[int, ...]:
        return (1, 3)

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        share = step.generator.rand()[:, None]
        later = {name: t + (1 - t) * (share if t.ndim == 2 else share[:, 0]) for name, t in step.times.items()}
        condition = replace(step.condition, until={})  # where the step goes may be before these times
        told = step.teacher(step.noised(later), later, condition, (5,)).taps[5].tokens
        first, third = (step.denoised.taps[k] for k in (1, 3))
        places = third.positions.expand(third.tokens.shape[:2])[..., None].expand_as(third.tokens)
        deeper = torch.zeros_like(told).scatter(1, places, third.tokens.detach())
        near = first.tokens.float()
        apart = (near - first.of(told)).square() + self.config.blend * (near - first.of(deeper)).square()
        return {"echo": apart.mean((1, 2))}


class Glide(Loss):
    """The mean velocity of half of the way that is left, in place of the denoising loss."""

    needs_features: ClassVar[bool] = False
    needs_until: ClassVar[bool] = True
    replaces_denoising: ClassVar[bool] = True

    def __init__(self, config: Loss.Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config

    def prepare(self, step: Step) -> Step:
        until = {name: (t + 1) / 2 for name, t in step.times.items()}
        return step.asking(condition=replace(step.condition, until=until))

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        def mean_velocity(noisy: Streams, times: Times) -> Streams:
            return step.quiet(noisy, times, step.condition).velocity

        ones = {name: torch.ones_like(t) for name, t in step.times.items()}
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's forward mode is made with what torch deprecates
            slopes: Any = torch.func.jvp(mean_velocity, (step.noisy, step.times), (step.velocity, ones))[1]
        terms: dict[str, Tensor] = {}
        for name, x_t in step.noisy.items():
            true = flow.velocity(step.target[name].detach(), x_t, step.times[name])  # x_t cancels in the difference
            gap = flow.spread(step.condition.until[name] - step.times[name], true)
            error = (step.denoised.velocity[name].float() - (true + gap * slopes[name])).square()
            terms[name] = (flow.spread(step.denoising_weights[name], error) * error).flatten(1).mean(1)
        return terms


class Mates(Loss):
    """Distance of each image's features to the mean of its class, in units of its mean over all processes."""

    grouped: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True
    gathers_mates: ClassVar[bool] = True

    def __init__(self, config: Loss.Config, setting: LossSetting) -> None:
        super().__init__()
        self.config = config

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        pooled = step.generated().pooled.float()
        everyone, labels = step.with_mates(pooled), step.with_mates(step.labels)
        same = (step.labels[:, None] == labels).float()
        with torch.autocast(pooled.device.type, enabled=False):
            mean = same @ everyone / same.sum(1, keepdim=True)
            distance = (pooled - mean).square().sum(1) + (pooled - step.real().pooled.float()).square().sum(1)
            total, count = sum_over_processes(torch.stack([distance.detach().sum(), distance.new_full((), len(mean))]))
        return {"mates": distance * count / total}


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

    def __init__(self, config: Config, setting: GuidanceSetting) -> None:
        super().__init__()
        self.config, self.num_classes = config, setting.num_classes

    def condition(self, labels: Tensor, generator: torch.Generator) -> Condition:
        return self.hide(labels, torch.rand(len(labels), generator=generator) < self.config.drop)

    def hide(self, labels: Tensor, rows: Tensor) -> Condition:
        """The condition whose rows lack label and features."""
        return Condition(
            labels=torch.where(rows, self.num_classes, labels),
            blocked={(IMAGE, FEATURES): rows},
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
    """Uniform times, the features' ahead of the image's."""

    @attrs.frozen(kw_only=True)
    class Config(Process.Config):
        """What a user may set."""

        power: float = attrs.field(default=1.0, validator=ge(0.1), metadata={"sampling": True})
        """Power of the even sampling times; above 1 steps are finer near noise."""

    def __init__(self, config: Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config, self.streams = config, tuple(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        t = torch.rand(batch, generator=generator)
        return {name: t if name == IMAGE else t.sqrt() for name in self.streams}

    def path(self, steps: int) -> Times:
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** self.config.power
        return {name: t.clone() if name == IMAGE else t.sqrt() for name in self.streams}

    def weight(self, times: Times) -> Times:
        return {name: 1 / (1.1 - t) for name, t in times.items()}


class Bend(Process):
    """The image's times are bent by a learned power; each of its samples counts as the bend is steep."""

    def __init__(self, config: Process.Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config, self.streams = config, tuple(setting.streams)
        self.power = nn.Parameter(torch.ones(()))

    def bent(self, t: Tensor) -> Tensor:
        """Times of the image; where nothing is learned yet as they were."""
        return t ** self.power.abs().to(t.dtype)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        t = torch.rand(batch, generator=generator)
        return {name: self.bent(t) if name == IMAGE else t for name in self.streams}

    def path(self, steps: int) -> Times:
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return {name: (self.bent(t) if name == IMAGE else t).detach().clone() for name in self.streams}

    def losses(self, times: Times, denoised: Denoised) -> Mapping[str, Tensor]:
        return {"bend": (self.power - 1).square()}


class Leap(Process):
    """From noise to data in one step, for which training always begins with noise."""

    def __init__(self, config: Process.Config, setting: ProcessSetting) -> None:
        super().__init__()
        self.config, self.streams = config, tuple(setting.streams)

    def sample(self, batch: int, generator: torch.Generator) -> Times:
        return {name: torch.zeros(batch) for name in self.streams}

    def path(self, steps: int) -> Times:
        if steps != 1:
            raise UserError(f"process leap takes one step, not {steps}: set --sample.steps 1")
        return {name: torch.tensor([0.0, 1.0], dtype=torch.float64) for name in self.streams}


class Midpoint(Solver):
    """The midpoint rule; the last step is Euler's."""

    def __init__(self, config: Solver.Config, setting: SolverSetting) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        steps = len(next(iter(path.values()))) - 1
        for k in range(steps):
            now, end = ({name: t[i].item() for name, t in path.items()} for i in (k, k + 1))
            half = {name: (now[name] + end[name]) / 2 for name in path}
            h = {name: end[name] - now[name] for name in path}
            slope = velocity(state, now, end)
            if k < steps - 1:
                middle = {n: x + h[n] / 2 * slope[n].float() if h[n] else x for n, x in state.items()}
                slope = velocity(middle, half, end)
            state = {n: x + h[n] * slope[n].float() if h[n] else x for n, x in state.items()}
        return state


class Stride(Solver):
    """Steps with the mean velocity of each."""

    needs_until: ClassVar[bool] = True

    def __init__(self, config: Solver.Config, setting: SolverSetting) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        for k in range(len(next(iter(path.values()))) - 1):
            now, end = ({name: t[i].item() for name, t in path.items()} for i in (k, k + 1))
            h = {name: end[name] - now[name] for name in path}
            slope = velocity(state, now, end)
            state = {n: x + h[n] * slope[n].float() if h[n] else x for n, x in state.items()}
        return state


class Jitter(Solver):
    """Euler's method with the score's share of noise, none in the last step."""

    def __init__(self, config: Solver.Config, setting: SolverSetting) -> None:
        self.config = config

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        steps = len(next(iter(path.values()))) - 1
        for k in range(steps):
            now, end = ({name: t[i].item() for name, t in path.items()} for i in (k, k + 1))
            slope = velocity(state, now, end)
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


class Push(Optimizer):
    """Gradient descent with momentum, normalised by the size of each gradient."""

    @attrs.frozen(kw_only=True)
    class Config(Optimizer.Config):
        """What a user may set."""

        momentum: float = attrs.field(default=0.5, validator=ge(0.0))
        """Share of the last direction in the next one, at least 0."""

    def __init__(self, config: Config, setting: OptimizerSetting) -> None:
        self.config, self.rate = config, setting.learning_rate

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        parts: list[dict[str, Any]] = []
        for group in groups:
            parts.append({"params": list(group.parameters.values()), "component": group.component})
        return Pushes(parts, self.rate, self.config.momentum)


class Pushes(torch.optim.Optimizer):
    """What `Push` builds."""

    def __init__(self, parts: Sequence[dict[str, Any]], rate: float, momentum: float) -> None:
        super().__init__(parts, {"lr": rate})
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                way = state.get("way", torch.zeros_like(weight)) * self.momentum + weight.grad
                state["way"] = way
                weight.sub_(group["lr"] * way / way.square().mean().sqrt().clamp_min(1e-3))


class Gap(Metric):
    """Distance between the means of the pooled vectors of generated and real images."""

    def __init__(self, config: Metric.Config, setting: MetricSetting) -> None:
        self.config, self.encoder = config, setting.encoder
        assert setting.features is not None
        self.sums = torch.zeros(2, setting.features.pooled, dtype=torch.float64)
        self.counts = torch.zeros(2, dtype=torch.float64)

    def update(self, images: Tensor, features: Features | None, generated: bool) -> None:
        assert features is not None
        self.sums[int(generated)] += features.pooled.double().sum(0)
        self.counts[int(generated)] += len(images)

    def state(self) -> Mapping[str, Tensor]:
        return {"sums": self.sums, "counts": self.counts}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self.sums = torch.stack([state["sums"] for state in states]).sum(0)
        self.counts = torch.stack([state["counts"] for state in states]).sum(0)

    def score(self) -> Score:
        if not self.counts.all():
            raise UserError("the gap needs generated and real images; set --eval.samples")
        real, generated = self.sums / self.counts[:, None]
        value = (generated - real).norm().item()
        return Score(name=f"gap ({self.encoder})", value=value, protocol={"images": self.counts.int().tolist()})

    def moments(self) -> Moments | None:
        mean = self.sums[0] / self.counts[0]
        return Moments(mean=mean, covariance=torch.zeros(len(mean), len(mean)).double(), count=int(self.counts[0]))

    def hold_against(self, moments: Moments) -> None:
        self.counts[0] = moments.count or 1
        self.sums[0] = moments.mean * self.counts[0]


class Dots(Data):
    """Gray squares whose brightness is their class."""

    num_classes = 3
    image_shape = (1, 4, 4)

    def __init__(self, config: Data.Config, setting: DataSetting) -> None:
        self.config = config

    def train(self) -> ImageSet:
        return _Dots(300, 0)

    def test(self) -> ImageSet:
        return _Dots(60, 1)


class _Dots(ImageSet):
    def __init__(self, size: int, key: int) -> None:
        draws = torch.Generator().manual_seed(key)
        self.labels = torch.arange(size) % 3
        self.blocks = Blocks(sizes=[size // 2, size - size // 2], window=1)
        noise = torch.randint(0, 60, (size, 1, 4, 4), generator=draws)
        self.images = (self.labels[:, None, None, None] * 90 + noise).clamp(0, 255).to(torch.uint8)

    def image(self, index: int, generator: torch.Generator | None) -> Tensor:
        image = self.images[index].clone()
        if generator is not None and torch.rand((), generator=generator) < 0.5:
            image = image.flip(-1)
        return image

    def extras(self, index: int) -> Mapping[str, Tensor]:
        return {"brightness": self.images[index].float().mean()}
