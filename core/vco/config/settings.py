"""The typed description of a run: the settings of the core, and the chosen components with their configs.

Every field's docstring line is its help text on the command line.
"""

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs import field
from attrs.validators import and_, deep_iterable, deep_mapping, ge, gt, instance_of, le, lt

from vco.kinds import KINDS


def _divides_batch(config: "TrainConfig", attribute: "attrs.Attribute[int]", value: int) -> None:
    if value and config.batch_size % value:
        raise ValueError(f"{attribute.name} ({value}) must divide batch_size ({config.batch_size})")


@attrs.frozen(kw_only=True)
class TrainConfig:
    """How to train."""

    steps: int = field(default=1000, validator=ge(1))
    """Optimizer steps in all."""
    batch_size: int = field(default=64, validator=ge(1))
    """Images per optimizer step, over all processes and accumulation steps."""
    samples_per_class: int = field(default=0, validator=[ge(0), _divides_batch])
    """Images of each class in a batch, which then holds batch_size / samples_per_class classes; 0 = plain shuffling."""
    accumulation: int = field(default=1, validator=[ge(1), _divides_batch])
    """Forward passes per optimizer step; must divide the batch."""
    sharding: Literal["none", "fsdp"] = "none"
    """Whether several processes share the weights of the network out, with its averages and optimizer state (FSDP2), in
    place of holding a copy each: for networks that are too large for one device."""
    checkpoint_blocks: bool = False
    """Whether the network's blocks are computed a second time in the backward pass, in place of keeping all that is in
    them: a third more arithmetic for far less memory, and the same result to the bit."""
    encoder_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the encoders where losses and adapters read them: auto is that of --mixed-precision, and fp32 where
    an adapter is fitted. Features, weights and scores stay float32."""
    compile: Literal["auto", "off", "blocks"] = "auto"
    """Whether the blocks of the networks are compiled (torch.compile), in training and where whole batches are sampled:
    auto does it on GPUs, and leaves out what cannot be compiled. Only rounding changes."""
    learning_rate: float = field(default=2e-4, validator=gt(0.0))
    """Peak learning rate (JiT: 5e-5 * batch_size / 256)."""
    warmup_steps: int = field(default=0, validator=ge(0))
    """Steps over which the learning rate grows linearly from 0 to its peak."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate goes on after the warm-up: it stays, or falls to the floor at the last step."""
    learning_rate_floor: float = field(default=0.0, validator=and_(ge(0.0), le(1.0)))
    """Share of the peak learning rate that a falling schedule ends at, in [0, 1]."""
    clip_gradients: float = field(default=0.0, validator=ge(0.0))
    """Largest norm of the gradient of all parameters together; a longer one is scaled down to it. 0 = never."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """What a gradient with NaN or infinity does: it ends the run, the step is left out, or the run goes back to the
    newest checkpoint and on with other batches. The last two wait for the device at every step."""
    ema_decays: tuple[float, ...] = field(default=(0.9999, 0.9996), validator=deep_iterable(and_(ge(0.0), lt(1.0))))
    """Decay rate per step of each running average of the weights, in [0, 1); the first is sampled from and
    evaluated."""
    stream_weights: Mapping[str, float] = field(
        factory=lambda: {"image": 1.0, "features": 0.1}, validator=deep_mapping(instance_of(str), ge(0.0))
    )
    """Weight of each stream's denoising loss, as in image=1,features=0.1; a stream not named has weight 1."""
    latents: str = field(default="", validator=instance_of(str))
    """Folder that `vco latents` has written of these images with this codec: it is read in training in place of images,
    which are read only where an encoder needs them."""
    fit_samples: int = field(default=50_000, validator=ge(1))
    """Training images (shuffled) that an adapter's fit stage sees, at most the whole set."""
    checkpoint_every: int = field(default=500, validator=ge(1))
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: int = field(default=2, validator=ge(1))
    """How many of the newest checkpoints stay on disk."""
    log_every: int = field(default=20, validator=ge(1))
    """Steps between lines in metrics.jsonl (the only steps at which the host waits for the device)."""
    sample_every: int = field(default=250, validator=ge(1))
    """Steps between sample grids."""
    workers: int = field(default=0, validator=ge(0))
    """Processes that read images, per training process; 0 reads in the training process."""
    timeout: int = field(default=300, validator=ge(10))
    """Seconds without an answer after which a lost process or a hung reader ends the run."""


@attrs.frozen(kw_only=True)
class SampleConfig:
    """How to sample."""

    steps: int = field(default=50, validator=ge(1))
    """Solver steps."""
    batch_size: int = field(default=250, validator=ge(1))
    """Images per forward pass and process (results do not depend on it)."""
    grid_rows: int = field(default=4, validator=and_(ge(1), le(64)))
    """Rows of the sample grids; the columns are the classes, at most 10."""


@attrs.frozen(kw_only=True)
class EvalConfig:
    """How to evaluate."""

    samples: int = field(default=1000, validator=ge(2))
    """Generated images."""
    labels: Literal["balanced", "data"] = "balanced"
    """Their classes: all equally often, or as often as in the training set. Real images are drawn likewise, to say
    what a perfect generator would get."""
    every: int = field(default=0, validator=ge(0))
    """Steps between evaluations during training; 0 = only at the end."""


@attrs.frozen(kw_only=True)
class Part:
    """One chosen component: where it stands in the configuration, its class, and the config the user gave it."""

    path: str
    """Place in the configuration: "backbone", "loss.repa", "metric.fd", or "metric.fd.digits-cnn" for its encoder."""
    kind: str
    """Name of its kind in `vco.kinds.KINDS`."""
    name: str
    """What it is called in this run: its registered name, or of one that is chosen again "repa:deep"."""
    component: type[Any]
    config: Any

    @property
    def section(self) -> str:
        """The first part of the path, as in "loss"."""
        return self.path.partition(".")[0]

    @property
    def registered(self) -> str:
        """The name that its plugin has registered."""
        return KINDS[self.kind].registered(self.name)

    @property
    def title(self) -> str:
        """The component as part of a sentence: "backbone jit", "loss repa", "metric fd's encoder digits-cnn"."""
        match self.path.split("."):
            case [section, metric, encoder]:
                return f"{section} {metric}'s encoder {encoder}"
            case _:
                return f"{self.section} {self.name}"


@attrs.frozen(kw_only=True)
class RunConfig:
    """Everything that describes a run; what config.yaml holds."""

    seed: int = field(default=0, validator=ge(0))
    """Seed of everything random."""
    output_dir: str = field(default="", validator=instance_of(str))
    """Run folder; by default runs/ and, joined by hyphens, the names of preset (without one: data), backbone,
    adapter and losses, and what else the command line sets. An existing run there is resumed."""
    start_from: str = field(default="", validator=instance_of(str))
    """Weights to begin a new run with (short: --from): RUN, RUN@STEP, or a file of published weights."""
    mixed_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the network: auto is bf16 where the device has it, else fp32. Weights are always float32."""
    log_with: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers that get losses, samples and scores too (pip install 'vco[trackers]'); metrics.jsonl has them anyway."""
    train: TrainConfig = field(factory=TrainConfig)
    sample: SampleConfig = field(factory=SampleConfig)
    eval: EvalConfig = field(factory=EvalConfig)
    parts: tuple[Part, ...]
    """Every chosen component."""

    def part(self, path: str) -> Part:
        """The component at a place of the configuration, as in "backbone" or "loss.repa"."""
        return next(part for part in self.parts if part.path == path)

    def all_of(self, section: str) -> dict[str, Part]:
        """Name -> component, of a section that may hold several, in their order."""
        return {part.name: part for part in self.parts if part.path == f"{section}.{part.name}"}

    def option_of(self, path: str) -> str:
        """How options of the component at a place begin on the command line: "loss", or "loss.repa" beside another."""
        section = path.partition(".")[0]
        alone = path.count(".") < 2 and len(self.all_of(section)) < 2
        return section if alone else path

    def encoders_of(self, metric: str) -> dict[str, Part]:
        """Name -> encoder that a metric looks through, in their order."""
        return {part.name: part for part in self.parts if part.path == f"metric.{metric}.{part.name}"}
