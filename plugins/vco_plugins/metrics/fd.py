"""The Frechet distance between generated and real images, in the features of any encoder."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from jaxtyping import UInt8
from torch import Tensor

from vco.api import Features, Metric, MetricSetting, Moments, Score
from vco_plugins.gathered import require_images
from vco_plugins.moments import Covariance

KINDS: Final = ("generated", "real")


class FD(Metric):
    """Frechet distance between Gaussians with the mean and covariance of generated and of real pooled features.

    It is named after its encoder, "FD (digits-cnn)", and is the FID only where encoder and protocol are FID's. It grows
    as generated images get fewer, so that only scores of equally many can be compared. Real images may be given as
    their moments alone, as published reference statistics are.

    Memory: one covariance of the features for each of the two sets (Inception: 33 MB), however many images.

    Source: Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """

    def __init__(self, config: Metric.Config, setting: MetricSetting) -> None:
        self.config = config
        self.setting = setting
        self._moments: dict[str, Covariance] = {}
        self._held_against: Moments | None = None

    def update(self, images: UInt8[Tensor, "b c h w"], features: Features | None, generated: bool) -> None:
        assert features is not None, "a metric that needs features gets them"
        vectors = features.pooled.double().cpu()
        self._of(KINDS[0] if generated else KINDS[1], vectors.shape[1]).add(vectors)

    def state(self) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = {}
        for kind, moments in self._moments.items():
            state[f"{kind}.count"] = torch.tensor(moments.count)
            state[f"{kind}.mean"], state[f"{kind}.scatter"] = moments.mean, moments.scatter
        return state

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._moments = {}
        for state in states:
            for kind in KINDS:
                if f"{kind}.count" in state:  # a process without such images has nothing to say
                    mean, scatter = state[f"{kind}.mean"].cpu(), state[f"{kind}.scatter"].cpu()
                    self._of(kind, len(mean)).merge(int(state[f"{kind}.count"]), mean, scatter)

    def moments(self) -> Moments | None:
        seen = self._moments.get(KINDS[1])
        return _finished(seen) if seen is not None and seen.count > 1 else None

    def hold_against(self, moments: Moments) -> None:
        self._held_against = moments

    def score(self) -> Score:
        counts: dict[str, int | None] = {
            kind: self._moments[kind].count if kind in self._moments else 0 for kind in KINDS
        }
        if self._held_against is not None:
            counts[KINDS[1]] = self._held_against.count
        require_images(counts, 2, "Frechet distance")
        generated = _finished(self._moments[KINDS[0]])
        value = frechet_distance(generated, self._held_against or _finished(self._moments[KINDS[1]]))
        return Score(name=f"FD ({self.setting.encoder})", value=value, protocol=counts)

    def _of(self, kind: str, width: int) -> Covariance:
        """The moments of the generated or the real images, whose features have `width` numbers an image."""
        if kind not in self._moments:
            self._moments[kind] = Covariance(width, torch.device("cpu"))
        return self._moments[kind]


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) with unbiased covariances C, in float64.

    Two symmetric eigendecompositions give the trace of the root: it is the sum of the roots of the eigenvalues of
    C_a^(1/2) C_b C_a^(1/2), the same value as by a general matrix root, faster and never complex.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    means = (a.mean - b.mean).square().sum()
    return float(means + a.covariance.trace() + b.covariance.trace() - 2 * cross)


def _finished(seen: Covariance) -> Moments:
    return Moments(mean=seen.mean.clone(), covariance=seen.scatter / (seen.count - 1), count=seen.count)
