"""What a loss knows of one training step."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import attrs
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from vco import flow
from vco.api.backbone import Denoised
from vco.api.codec import Codec
from vco.api.condition import Condition
from vco.api.features import Features, FeatureSource
from vco.api.streams import IMAGE, Streams, StreamSpec, Times
from vco.api.views import Views
from vco.collectives import gather_rows, own_rows
from vco.errors import UserError
from vco.randomness import RowGenerator


@runtime_checkable
class Network(Protocol):
    """A network that can be asked about any noisy streams, times and condition."""

    def __call__(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        """The network's answer, with both the clean prediction and the velocity of every stream."""
        ...


@attrs.define(kw_only=True, slots=False)
class Step:
    """What a `Loss` knows of a training step, and whom it may ask again. Features are computed when first asked for."""

    number: int
    """Optimizer steps done before this one."""
    images: Float[Tensor, "b c h w"]
    """The clean images, in [-1, 1]."""
    labels: Int[Tensor, " b"]
    """The true classes (before any label was dropped)."""
    times: Times
    condition: Condition
    clean: Streams
    """The clean streams that were noised; they may carry gradients to an adapter that learns."""
    noise: Streams
    """Standard normal noise of every stream, before the stream's noise scale."""
    noisy: Streams
    """The noised streams. What guidance shows instead in the rows of `condition.nulled` is put in when a network is
    asked: by the core, and by `network`, `quiet` and `teacher`."""
    target: Streams
    """What predictions of the clean streams are regressed to."""
    specs: Mapping[str, StreamSpec]
    """Every stream of the run."""
    views: Views
    """What the frozen encoders say of the images; `features`, `real` and `generated` ask it."""
    codec: Codec
    network: Network
    """The network that is trained, in training mode and with gradient, inside the data-parallel forward pass."""
    quiet: Network
    """The same network in eval mode and without gradient: for passes that only inform the one that is trained.

    Forward derivatives pass: call `torch.func.jvp` under `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`, because
    fused attention has none."""
    generator: RowGenerator
    """Counted random numbers: `.rand()` gives uniform [b], `.randn(n, d)` standard normal [b, n, d], float32.

    Row i depends on the seed, the step, the loss and the slot of sample i alone, so that process counts do not matter.
    `Loss.prepare` and `Loss.forward` draw from different ones."""
    extras: Mapping[str, Tensor] = attrs.field(factory=dict[str, Tensor])
    """What travels with the images (`ImageSet.extras`), [b, ...] each."""
    denoising_weights: Times = attrs.field(factory=dict[str, Tensor])
    """Factor of each stream's denoising loss of each sample [b] or token [b, n]: --train.stream-weights, the process's
    weight, and 0 where the stream is not supervised (the others then count more, so that the batch's mean runs over
    them). A loss that takes the place of the denoising loss multiplies each stream's error by it."""
    split_groups: bool = False
    """Whether class groups are split over processes: samples of one class group are then on several of them."""

    _rows: RowGenerator = attrs.field(default=attrs.Factory(lambda self: self.generator, takes_self=True), alias="rows")
    _reader: str = attrs.field(default="", alias="reader")
    _reads_features: bool = attrs.field(default=True, alias="reads_features")
    _teacher: Network | None = attrs.field(default=None, alias="teacher")
    _denoised: Denoised | None = attrs.field(default=None, alias="denoised")

    @property
    def denoised(self) -> Denoised:
        """The network's answer about this step; both the clean prediction and the velocity of every stream."""
        assert self._denoised is not None, "the network is asked after `Loss.prepare`, before `Loss.forward`"
        return self._denoised

    @property
    def teacher(self) -> Network:
        """The first running average (EMA) of the network: frozen, in eval mode, of no memory of its own."""
        assert self._teacher is not None, "a loss that asks the teacher must declare needs_teacher = True"
        return self._teacher

    @property
    def predicted(self) -> Float[Tensor, "b c h w"]:
        """The predicted clean images, decoded from the image stream; gradients pass."""
        return self.codec.decode(self.denoised.clean[IMAGE])

    @property
    def sources(self) -> Mapping[str, FeatureSource]:
        """The frozen encoders by name, in the order of --features."""
        return self.views.sources

    def features(self, name: str = "") -> Features:
        """The feature stream's view of the clean images by one encoder (the first by default), without gradient."""
        return self.views[self._encoder(name)]

    def real(self, name: str = "") -> Features:
        """The perceptual view of the clean images, without gradient."""
        return self.views.real(self._encoder(name))

    def generated(self, name: str = "") -> Features:
        """The perceptual view of the predicted images; gradients reach the prediction through encoder and codec."""
        name = self._encoder(name)
        if not self.sources[name].differentiable:
            raise UserError(
                f"a loss needs gradients through the encoder {name}, which it does not pass: choose other --features"
            )
        return self.views.generated(name, lambda: self.predicted)

    def with_mates(self, rows: Shaped[Tensor, "b *d"]) -> Shaped[Tensor, "n *d"]:
        """Rows of all samples that may be in the class groups of this process's samples; gradients pass.

        These are the given rows where class groups are whole, and where they are split the rows of all processes. A
        loss that compares samples of a class in them declares `gathers_mates = True`.
        """
        return gather_rows(rows) if self.split_groups else rows

    def own(self, rows: Shaped[Tensor, "n *d"]) -> Shaped[Tensor, "b *d"]:
        """Of the rows that `with_mates` gave, or of what was computed for each of them, this process's."""
        return own_rows(rows) if self.split_groups else rows

    def noised(self, times: Times) -> Streams:
        """The clean streams with the step's own noise, at other times."""
        return {
            stream: flow.corrupt(self.clean[stream], self.noise[stream], times[stream], spec.noise_scale)
            for stream, spec in self.specs.items()
        }

    @property
    def velocity(self) -> Streams:
        """The true velocity of every stream, clean - noise_scale * noise: float32, without gradient."""
        return {
            stream: self.clean[stream].detach().float() - spec.noise_scale * self.noise[stream].float()
            for stream, spec in self.specs.items()
        }

    def asking(self, *, times: Times | None = None, condition: Condition | None = None) -> "Step":
        """The same images and noise at other times, or with another condition; `noisy` follows the times."""
        changed = attrs.evolve(self, times=times or self.times, condition=condition or self.condition)
        return changed if times is None else attrs.evolve(changed, noisy=self.noised(times))

    def answered(self, denoised: Denoised) -> "Step":
        """The step with the network's answer."""
        return attrs.evolve(self, denoised=denoised)

    def of_loss(self, name: str, stage: str, reads_features: bool) -> "Step":
        """The step as one loss sees it in one stage: with its own random numbers, and encoders if it declares some."""
        return attrs.evolve(
            self, generator=self._rows.of(f"{name}/{stage}"), reader=name, reads_features=reads_features
        )

    def _encoder(self, name: str) -> str:
        if not self._reads_features:
            raise UserError(
                f"loss {self._reader} reads encoder features and does not declare needs_features = True: its author "
                "has to add that"
            )
        return name or next(iter(self.sources))
