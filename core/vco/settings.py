"""The typed description of a run: sections that belong to the core, and the chosen components with their configs.

Every field's docstring line is its help text on the command line.
"""

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs import field
from attrs.validators import and_, deep_iterable, deep_mapping, ge, gt, instance_of, le, lt


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
    learning_rate: float = field(default=2e-4, validator=gt(0.0))
    """Peak learning rate of AdamW (JiT: 5e-5 * batch_size / 256)."""
    warmup_steps: int = field(default=0, validator=ge(0))
    """Steps over which the learning rate grows linearly from 0; constant afterwards."""
    betas: tuple[float, float] = field(default=(0.9, 0.95), validator=deep_iterable(and_(ge(0.0), lt(1.0))))
    """AdamW's decay rates, each in [0, 1)."""
    weight_decay: float = field(default=0.0, validator=ge(0.0))
    """AdamW's decoupled weight decay."""
    ema_decays: tuple[float, ...] = field(default=(0.9999, 0.9996), validator=deep_iterable(and_(ge(0.0), lt(1.0))))
    """Decay rate per step of each running average of the weights, in [0, 1); the first is sampled from and
    evaluated."""
    stream_weights: Mapping[str, float] = field(
        factory=lambda: {"pixels": 1.0, "features": 0.1}, validator=deep_mapping(instance_of(str), ge(0.0))
    )
    """Weight of each stream's denoising loss, as in pixels=1,features=0.1; a stream not named has weight 1."""
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
    """How to evaluate at the end."""

    samples: int = field(default=1000, validator=ge(2))
    """Generated images, class-balanced."""


@attrs.frozen(kw_only=True)
class Choice:
    """One chosen component: its registered name, its class, and the config the user gave it."""

    name: str
    component: type[Any]
    config: Any


@attrs.frozen(kw_only=True)
class RunConfig:
    """Everything that describes a run; what config.yaml holds."""

    seed: int = field(default=0, validator=ge(0))
    """Seed of everything random."""
    output_dir: str = field(default="", validator=instance_of(str))
    """Run folder; by default runs/ and, joined by hyphens, the names of preset (without one: data), backbone,
    adapter and losses. An existing run there is resumed."""
    mixed_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the network: auto is bf16 where the device has it, else fp32. Weights are always float32."""
    train: TrainConfig = field(factory=TrainConfig)
    sample: SampleConfig = field(factory=SampleConfig)
    eval: EvalConfig = field(factory=EvalConfig)
    data: Choice
    backbone: Choice
    features: Choice
    adapter: Choice
    loss: Mapping[str, Choice] = field(factory=dict)
    guidance: Choice
    process: Choice
    solver: Choice
    evaluator: Choice

    def named(self, path: str) -> str:
        """A component as part of a sentence: "backbone jit" for "backbone", "loss repa" for "loss.repa"."""
        section, _, name = path.partition(".")
        return f"{section} {name or getattr(self, section).name}"
