"""Networks that a loss may ask in a test, and whether what it asks them about belongs together."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from vco import flow
from vco.api import Condition, Denoised, Streams, StreamSpec, Times
from vco.objective import complete
from vco.testing.law import ViolationError
from vco.testing.tensors import tree_map
from vco.testing.toy import ToyNetwork

ON_THE_PATH: Final = 5e-3
"""Streams that are no further from the straight path are on it, in lengths of the path: rounding to bfloat16 is not."""
ELSEWHERE: Final = 0.02
"""Streams on the path that are further than this from where their times put them belong to other times."""
ROUNDING: Final = 1e-6
"""By how much times may miss their bounds."""


def as_it_is(x: Tensor) -> Tensor:
    """The tensor itself."""
    return x


@attrs.frozen(kw_only=True, eq=False)
class Paths:
    """The straight paths of a batch from noise to data, on which noisy streams of a certain time have one place."""

    clean: Streams
    noise: Streams
    specs: Mapping[str, StreamSpec]

    def complaint(self, noisy: Streams, times: Times, until: Times) -> str:
        """What does not belong together in a question to a network; empty if all does, or if tensors have no values.

        Streams that lie on no path, such as those that a network's velocity led to, belong to any time. A question may
        be about some of the samples.
        """
        if any(x.is_meta for x in noisy.values()):
            return ""
        for name, t in times.items():
            if not _in_range(t):
                return f"the times of {name} run from {t.min().item():.3g} to {t.max().item():.3g}, outside [0, 1]"
            if name in until and not _in_range(until[name]):
                return f"the step of {name} ends at {until[name].max().item():.3g}, outside [0, 1]"
            if name in until and (_columns(until[name]) < _columns(t) - ROUNDING).any():
                return f"the step of {name} ends (`condition.until`) before the time that the network is asked about"
        if until and until.keys() != times.keys():
            missing = ", ".join(sorted(times.keys() - until.keys()))
            return f"`condition.until` has no entry for {missing}"
        for name, x in noisy.items():
            if (row := self._misplaced(name, x, times[name])) is not None:
                t = _columns(times[name])[row, 0].item()
                return f"`noisy` of {name} belongs to other times than it comes with ({t:.2f} in row {row})"
        return ""

    def _misplaced(self, name: str, x: Float[Tensor, "k *shape"], t: Tensor) -> int | None:
        """The first row that lies on the path of a sample, where that is not at its time."""
        x, clean = x.detach().double(), self.clean[name].detach().double()
        noise = self.specs[name].noise_scale * self.noise[name].double()
        way = (clean - noise).flatten(1)
        length = way.square().sum(1)
        travelled = (x[:, None] - noise).flatten(2)  # [k, b, ...]: of each row on the path of each sample
        share = (travelled * way).sum(2) / length
        off, sample = ((travelled - share[..., None] * way).square().sum(2) / length).min(1)
        place = flow.corrupt(clean[sample], noise[sample], t)
        missed = (x - place).flatten(1).square().sum(1) / length[sample]
        rows = ((off < ON_THE_PATH**2) & (missed > ELSEWHERE**2)).nonzero()
        return int(rows[0]) if len(rows) else None


def _in_range(t: Tensor) -> bool:
    return bool(((t >= -ROUNDING) & (t <= 1 + ROUNDING)).all())


def _columns(t: Tensor) -> Float[Tensor, "b n"]:
    return t[:, None] if t.ndim == 1 else t


@attrs.frozen(kw_only=True, eq=False)
class AskedNetwork:
    """A network as losses see it; notes that it was asked, and what did not belong together in the question."""

    name: str
    module: ToyNetwork
    asked: list["AskedNetwork"]
    """Where it notes itself."""
    paths: Paths | None = None
    """By what it judges questions; None if it takes them as they come."""
    gradient: bool = True
    """Whether gradients pass."""
    hears: Callable[[Tensor], Tensor] = as_it_is
    """What becomes of noisy streams before the network sees them."""
    says: Callable[[Tensor], Tensor] = as_it_is
    """What becomes of its taps and its context before the loss sees them."""
    complaints: list[str] = attrs.field(factory=list[str])
    """What did not belong together in questions."""
    pulled: set[str] = attrs.field(factory=set[str])
    """Streams of which a prediction got a gradient that is not zero."""

    def __call__(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        """The network's answer, with clean predictions and velocities."""
        self.asked.append(self)
        if self.paths is not None and (complaint := self.paths.complaint(noisy, times, condition.until)):
            self.complaints.append(complaint)
        try:
            with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
                answer = complete(self.module(tree_map(self.hears, noisy), times, condition, taps), noisy, times)
        except NotImplementedError as error:  # so fused attention says that it has no forward-mode derivative
            why = "no forward derivative passes its attention: call torch.func.jvp under sdpa_kernel(SDPBackend.MATH)"
            raise ViolationError(f"asking step.{self.name}: {why}") from error
        for stream, x in answer.clean.items():  # the velocity is made of it
            if x.requires_grad:
                x.register_hook(lambda gradient, stream=stream: self._note(stream, gradient))
        taps_said = {k: replace(tap, tokens=self.says(tap.tokens)) for k, tap in answer.taps.items()}
        return replace(answer, taps=taps_said, context=tree_map(self.says, answer.context))

    def _note(self, stream: str, gradient: Tensor) -> None:
        if gradient.any():
            self.pulled.add(stream)

    @property
    def is_reached(self) -> bool:
        """Whether a gradient has come back through one of its answers."""
        return any(parameter.grad is not None for parameter in self.module.parameters())
