"""Streams: what is noised and denoised, and its times."""

import attrs
from torch import Tensor

IMAGE = "image"
"""Name of the stream that the codec makes of the images; every run has it."""
FEATURES = "features"
"""Name of the stream of patch tokens that an adapter makes of encoder features."""

Streams = dict[str, Tensor]
"""Stream name -> tensor [b, ...]."""
Times = dict[str, Tensor]
"""Stream name -> float32 times in [0, 1]; 0 is noise, 1 is data. [b], or [b, n] with a time for every token."""


@attrs.frozen(kw_only=True)
class StreamSpec:
    """What one stream looks like, known before any data is read."""

    shape: tuple[int, ...]
    """Shape of one sample: (c, h, w) for images and latents, (n, d) for tokens."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the tokens (n = rows * columns), None where there is no grid."""
    noise_scale: float = 1.0
    """Standard deviation of the noise at t = 0."""
