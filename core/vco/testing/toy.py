"""Small stand-ins for the other components of a step, so that a loss or a backbone can be tested alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vco import flow
from vco.api import (
    FEATURES,
    IMAGE,
    Codec,
    CodecSetting,
    Condition,
    Denoised,
    Features,
    FeatureSource,
    FeatureSpec,
    Streams,
    StreamSpec,
    Tap,
    Times,
)
from vco.randomness import RowGenerator

FOLD: Final = 2
"""Side of the squares of pixels that `ToyCodec` makes one latent of."""


def cells(images: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Float[Tensor, "b n p"]:
    """What lies in each cell of a grid, row by row."""
    size = (images.shape[2] // grid[0], images.shape[3] // grid[1])
    return nn.functional.unfold(images, size, stride=size).transpose(1, 2)


def _weight(draws: torch.Generator, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=draws, device="cpu") * shape[-2] ** -0.5, requires_grad=False)


class ToyEncoder(FeatureSource):
    """A frozen random encoder with two views, through which gradients reach the images."""

    def __init__(self, image_shape: tuple[int, int, int], spec: FeatureSpec, seed: int) -> None:
        super().__init__()
        self.config = FeatureSource.Config()
        self.spec = spec
        draws = torch.Generator().manual_seed(seed)
        (channels, height, width), (rows, columns), tokens = image_shape, spec.grid, spec.tokens[1]
        self.patches = _weight(draws, channels * (height // rows) * (width // columns), tokens)
        self.mixed, self.pool = _weight(draws, tokens, tokens), _weight(draws, tokens, spec.pooled)

    def load(self) -> None:
        """Nothing to read."""

    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        """One view."""
        return self._features(torch.tanh(cells(images.float(), self.spec.grid) @ self.patches))

    def perceive(self, images: Float[Tensor, "b c h w"]) -> Features:
        """Another view."""
        return self._features(torch.tanh(self(images).tokens @ self.mixed))

    def _features(self, tokens: Float[Tensor, "b n d"]) -> Features:
        return Features(tokens=tokens, grid=self.spec.grid, pooled=torch.tanh(tokens.mean(1) @ self.pool))


class ToyCodec(Codec):
    """Pixels as they are, or folded: squares of pixels stacked in channels of half the size, as latents are smaller."""

    def __init__(self, setting: CodecSetting, folded: bool) -> None:
        super().__init__()
        self.config = Codec.Config()
        channels, height, width = setting.image_shape
        shape = (channels * FOLD**2, height // FOLD, width // FOLD) if folded else setting.image_shape
        self.folded, self.spec = folded, StreamSpec(shape=shape)

    def encode(self, images: Float[Tensor, "b c h w"], noise: Tensor | None) -> Float[Tensor, "b e i j"]:
        """The image stream."""
        return 0.5 * nn.functional.pixel_unshuffle(images, FOLD) if self.folded else images

    def decode(self, stream: Float[Tensor, "b e i j"]) -> Float[Tensor, "b c h w"]:
        """The images."""
        return 2.0 * nn.functional.pixel_shuffle(stream, FOLD) if self.folded else stream


class ToyNetwork(nn.Module):
    """A network whose answer about a sample depends on all that it is told about it, and on no other sample.

    It wants to be told again what features it predicts. Autocast leaves it in float32. Its attention is the fused one:
    forward-mode derivatives pass under `sdpa_kernel(SDPBackend.MATH)` alone, as they do in true networks.
    """

    def __init__(
        self, specs: Mapping[str, StreamSpec], features: FeatureSpec, *, width: int, depth: int, classes: int, seed: int
    ) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        channels, height, columns = specs[IMAGE].shape
        self.grid = grid = features.grid
        self.gain = nn.ParameterDict({name: nn.Parameter(0.5 + torch.rand((), generator=draws)) for name in specs})
        self.labels = nn.Parameter(torch.randn(classes + 1, generator=draws))
        self.blocks = nn.ParameterList(
            _weight(draws, channels * height * columns // (grid[0] * grid[1]), width) for _ in range(depth)
        )
        self.taught = _weight(draws, width, features.tokens[1])

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...]) -> Denoised:
        """The answer, with clean predictions."""
        with torch.autocast(noisy[IMAGE].device.type, enabled=False):
            seen = cells(noisy[IMAGE].float(), self.grid).contiguous()  # rows that are not give another attention
            head = seen[:, None]
            seen = seen + nn.functional.scaled_dot_product_attention(head, head, head)[:, 0]
            known = torch.tanh(self.labels[condition.labels]) + seen.flatten(1).mean(1)
            for x in (*noisy.values(), *condition.context.values()):
                known = known + x.float().flatten(1).mean(1)
            clean: Streams = {}
            for name, x in noisy.items():
                t = flow.spread(times[name], x)
                until = flow.spread(condition.until[name], x) if name in condition.until else t
                told = torch.sin(3 * t) / 3 + (until - t) / 5 + flow.spread(known, x) / 10
                clean[name] = (self.gain[name] * x.float() + told).to(x.dtype)
            blocks = {k: self.blocks[k - 1] for k in (*taps, len(self.blocks))}
            hidden = {k: torch.tanh(seen @ block + known[:, None, None]) for k, block in blocks.items()}
            positions = torch.arange(seen.shape[1], device=seen.device)
            tapped = {k: Tap(tokens=hidden[k], positions=positions) for k in taps}
            context = {FEATURES: hidden[len(self.blocks)] @ self.taught}
            return Denoised(clean=clean, taps=tapped, context=context)


@attrs.define
class RowGeneratorWithoutValues(RowGenerator):
    """Random numbers on the meta device, which has no generator because its tensors have no values."""

    def _draw(self, function: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        return torch.empty(len(self.slots), *shape, device="meta")
