"""The Frechet distance between generated and real images, in the features of any encoder."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vco.api import Features, Metric, MetricSetting, Score, UserError
from vco_plugins.moments import Covariance

KINDS: Final = ("generated", "real")


class FD(Metric):
    """Frechet distance between Gaussians with the mean and covariance of generated and of real pooled features.

    It is named after its encoder, "FD (digits-cnn)", and is the FID only where encoder and protocol are FID's.

    Source: Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """

    def __init__(self, config: Metric.Config, setting: MetricSetting) -> None:
        self.config = config
        self.setting = setting
        self._moments: dict[str, Covariance] = {}

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

    def score(self) -> Score:
        counts = {kind: self._moments[kind].count if kind in self._moments else 0 for kind in KINDS}
        if min(counts.values()) < 2:
            raise UserError(
                "the Frechet distance needs at least two generated and two real images, but there are "
                f"{counts['generated']} and {counts['real']}: set --eval.samples to at least 2"
            )
        value = frechet_distance(self._moments["generated"], self._moments["real"])
        return Score(name=f"FD ({self.setting.encoder})", value=value, protocol=counts)

    def _of(self, kind: str, width: int) -> Covariance:
        """The moments of the generated or the real images, whose features have `width` numbers an image."""
        if kind not in self._moments:
            self._moments[kind] = Covariance(width, torch.device("cpu"))
        return self._moments[kind]


def frechet_distance(a: Covariance, b: Covariance) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) with unbiased covariances C, in float64.

    Two symmetric eigendecompositions give the trace of the root: it is the sum of the roots of the eigenvalues of
    C_a^(1/2) C_b C_a^(1/2), the same value as by a general matrix root, faster and never complex.
    """
    covariance_a, covariance_b = _unbiased(a), _unbiased(b)
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp_min(0).sqrt().sum()
    means = (a.mean - b.mean).square().sum()
    return float(means + covariance_a.trace() + covariance_b.trace() - 2 * cross)


def _unbiased(moments: Covariance) -> Float[Tensor, "d d"]:
    return moments.scatter / (moments.count - 1)
