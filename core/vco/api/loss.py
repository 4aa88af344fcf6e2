"""The contract of alignment losses."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
from jaxtyping import Float
from torch import Tensor, nn

from vco.api.component import Component
from vco.api.features import FeatureSpec
from vco.api.step import Step
from vco.api.streams import StreamSpec
from vco.loss_schedule import LossSchedule


@attrs.frozen(kw_only=True)
class LossSetting:
    """What a loss is told of the run."""

    width: int
    """Token width of the backbone's taps."""
    grid: tuple[int, int]
    """Rows and columns of the image stream's tokens, which the taps are taken from."""
    depth: int
    """Number of blocks of the backbone."""
    features: Mapping[str, FeatureSpec]
    """Every encoder of the run by its name, in the order of --features."""
    streams: Mapping[str, StreamSpec]
    """Every stream of the run."""
    num_classes: int
    """Number of classes; the label `num_classes` stands for no label."""


class Loss(Component, nn.Module):
    """A loss beside the denoising loss, added as its config says. Its terms are added in float32.

    Under bf16 training, matrix products of a loss run in bf16 unless it computes them under
    `torch.autocast(device_type, enabled=False)`.

    Constructed as `Class(config, LossSetting)`.
    """

    @attrs.frozen(kw_only=True)
    class Config(LossSchedule, Component.Config):
        """What a user may set, beside what all losses share: weight, warmup_steps, stop_after, t_low and t_high.

        The core applies these; a loss may give them other defaults, and no other meaning.
        """

    needs_features: ClassVar[bool] = True
    """Whether it reads encoders (`step.features`, `step.real`, `step.generated`)."""
    needs_teacher: ClassVar[bool] = False
    """Whether it asks the average of the network (`step.teacher`), so that the run must keep one."""
    needs_until: ClassVar[bool] = False
    """Whether it tells the network the time that a step goes to, so that the backbone must understand that.

    Any solver may sample from such a network: one that makes no steps with mean velocities asks it about one time."""
    needs_context: ClassVar[tuple[str, ...]] = ()
    """What it reads from `step.denoised.context`, so that the backbone must hand it out (`Backbone.hands_out`)."""
    one_time: ClassVar[bool] = False
    """Whether it trains all streams at one time, so that the process must sample them along one path."""
    grouped: ClassVar[bool] = False
    """Whether it needs batches made of whole class groups (--train.samples-per-class)."""
    couples_batch: ClassVar[bool] = False
    """Whether other samples matter to a sample's loss. Beyond class groups it sums over processes itself."""
    gathers_mates: ClassVar[bool] = False
    """Whether it gathers class mates from other processes (`step.with_mates`), so that a class group may be split over
    processes. A loss that does not gets whole class groups, or the run is refused."""
    replaces_denoising: ClassVar[bool] = False
    """Whether it takes the place of the denoising loss, which is then neither computed nor added."""

    @property
    def taps(self) -> tuple[int, ...]:
        """Block numbers (1 = first) whose tokens it reads from `step.denoised.taps`."""
        return ()

    def prepare(self, step: Step) -> Step:
        """The step that the network is to be asked about: other times, another condition. Default: the same.

        Called before the network is asked, when `step.denoised` is not there yet. A changed step is a copy:
        `step.asking(times=..., condition=...)`. Losses prepare in their order, each what the one before has left.
        """
        return step

    @abstractmethod
    def forward(self, step: Step) -> Mapping[str, Float[Tensor, "*b"]]:
        """Named unweighted terms, one value a sample (or a scalar, where a term belongs to no sample).

        The core takes the mean of a term over the samples that count, and adds it to the total with the loss's weight.
        A single term is best named as the loss; others are logged as "loss.term", and not shown in the progress bar.
        """
