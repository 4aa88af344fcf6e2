"""The kernel distance (KID) between generated and real images, in the features of any encoder."""

from typing import Final

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from vco.api import Score
from vco_plugins.gathered import PairwiseMetric

ROWS: Final = 2048
"""Rows of a kernel matrix that are held at once."""


class KID(PairwiseMetric):
    """Kernel distance: the unbiased estimate of the squared MMD under the kernel (x . y / d + 1)^3.

    It is computed from all pairs of images. torch-fidelity and others average it over 100 random subsets of 1,000
    images, which has the same expectation and more noise, and depends on the order of the images. Two sets that differ
    by chance alone have values around 0, below it too. Unlike FD it is not biased where images are few.

    Memory: the features of all images (50,000 of Inception: 400 MB), and more while they are compared.

    Source: Binkowski et al. 2018 (arXiv 1801.01401), section 4.
    """

    def score(self) -> Score:
        self.gathered.require(2, "kernel distance")
        generated, real = self.gathered.both()
        value = _within(generated) + _within(real) - 2 * _kernel_sum(generated, real) / (len(generated) * len(real))
        return Score(name=f"KID ({self.setting.encoder})", value=value, protocol=self.gathered.counts())


def _within(x: Float[Tensor, "n d"]) -> float:
    """The mean kernel of two different images of one set."""
    own = (x.square().mean(1) + 1).pow(3).sum().item()
    return (_kernel_sum(x, x) - own) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    blocks = tqdm(x.split(ROWS), desc="pairs of images", leave=False, delay=5, disable=None)
    return sum((rows @ y.T / x.shape[1] + 1).pow(3).sum().item() for rows in blocks)
