"""What one training step is given: images, and everything random about them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from torch import Tensor

from vco.api import Condition, Streams, Times
from vco.randomness import RowGenerator


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The random part of a step, drawn for the whole global batch so that it does not depend on the process count."""

    times: Times
    condition: Condition
    denoising_weights: Times
    """Factor of the denoising loss per stream, of each sample [b] or token [b, n].

    Its mean over the *global* batch makes a mean over the supervised samples, so that equal shares of a batch may
    simply be averaged over processes."""
    loss_weights: Mapping[str, Tensor]
    """Likewise the factor of each sample in each alignment loss, [b]."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Draw":
        """The same with `function` applied to every tensor (slicing rows, moving to a device)."""
        return replace(
            self,
            times={stream: function(t) for stream, t in self.times.items()},
            condition=self.condition.map(function),
            denoising_weights={stream: function(weight) for stream, weight in self.denoising_weights.items()},
            loss_weights={loss: function(weight) for loss, weight in self.loss_weights.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The images of (a share of) a batch, and what is random about each row."""

    images: Float[Tensor, "b c h w"]
    """The clean images, in [-1, 1]."""
    labels: Int[Tensor, " b"]
    """Their true classes."""
    noise: Streams
    """Standard normal noise, one tensor per stream."""
    generator: RowGenerator
    """Counted random numbers for these rows, for losses that draw."""
    encoding_noise: Tensor | None = None
    """What the codec draws with, [b, *noise_shape]; None where it draws nothing."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What travels with the images."""
