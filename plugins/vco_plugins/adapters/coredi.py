"""A feature space that is learned together with the diffusion model."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, Literal

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge, gt, optional
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import (
    FEATURES,
    Adapted,
    Adapter,
    AdapterSetting,
    Features,
    ReadsFeatures,
    StreamSpec,
    UserError,
    chosen_features,
    sum_over_processes,
)
from vco_plugins.moments import EPS, Covariance, principal
from vco_plugins.stream_grid import PlacedConfig, placed, placed_spec

MOMENTUM: Final = 0.1
VF_DISTANCE_MARGIN: Final = 0.25
VF_COSINE_MARGIN: Final = 0.5


class CoReDi(Adapter):
    """Linear projection of the features, learned together with the diffusion model [CoReDi, reconstructed].

    The tokens z (D channels) become BN(z P), d channels of unit variance over the batch of *all* processes
    (running statistics in eval mode). The noised input carries gradients to P, the target none: otherwise P
    would make its own target trivial. Batch norm closes the shortcuts through scale; against channels that
    become copies of each other stand

    * ortho = |N'N - I|^2 / d^2, N the columns of P at unit length;
    * cov = sum over i != j of C_ij^2 / (d (d - 1)), C the correlations of the d channels (VICReg);
    * vf = VA-VAE's loss: after a learnable lift to D channels, cosine similarities between the tokens of an
      image, and of each token with its original, must stay within margins 0.25 and 0.5 (fixed weight, no
      gradient-ratio scaling).

    Both ortho and cov lie in [0, 1], and 0.1, the middle of the range worth
    sweeping (0.01 to 1), is the feature stream's own weight in V-Co's loss: neither side drowns the other.
    cov alone sees the data, ortho also holds where the data has few directions; vf costs n^2 a sample and
    needs a lift, so it is off. Running averages of the weights mix bases that move; a small learning rate of the
    projection, or freezing it late, keeps them close.

    Without `stop_gradient` the features become easy to predict and tell the image less; without `normalize` their
    scale runs away. Both can be turned off to show that (docs/coredi_collapse.png).

    Raises:
        UserError: If there are more `channels` than the features have.

    Source: CoReDi (arXiv 2604.17492), whose code and constants are unpublished: the projection is ReDi's
        (arXiv 2504.16064), cov VICReg's (arXiv 2105.04906, eq. 4), vf VA-VAE's (arXiv 2501.01423), the rest
        is inferred.
    """

    couples_batch: ClassVar[bool] = True

    @attrs.frozen(kw_only=True)
    class Config(PlacedConfig, ReadsFeatures, Adapter.Config):
        """What a user may set."""

        channels: int = attrs.field(default=8, validator=ge(1))
        """Width d of the learned feature stream, at least 1."""
        init: Literal["random", "pca"] = "random"
        """Projection at the start: normal with variance 1 / D, or the features' principal directions."""
        scale: float = attrs.field(default=1.0, validator=gt(0.0))
        """Standard deviation of the stream's channels, above 0."""
        ortho: float = attrs.field(default=0.1, validator=ge(0.0))
        """Weight of the orthogonality of the projection's columns, at least 0."""
        cov: float = attrs.field(default=0.1, validator=ge(0.0))
        """Weight of the decorrelation of the channels, at least 0."""
        vf: float = attrs.field(default=0.0, validator=ge(0.0))
        """Weight of VA-VAE's vision-foundation loss, at least 0 (VA-VAE: 0.1)."""
        learning_rate_scale: float = attrs.field(default=1.0, validator=ge(0.0))
        """Factor of the learning rate of the projection, at least 0."""
        freeze_after: int | None = attrs.field(default=None, validator=optional(ge(0)))
        """Steps after which the projection stays as it is, at least 0; by default it never stops learning."""
        stop_gradient: bool = True
        """Whether targets carry no gradient; off is a control, in which they become easy instead of useful."""
        normalize: bool = True
        """Whether the channels are batch-normalised; off is a control, in which their scale runs away."""

    running_mean: Tensor
    running_var: Tensor
    correlation: Tensor

    def __init__(self, config: Config, setting: AdapterSetting) -> None:
        super().__init__()
        self.encoder, spec = chosen_features(setting.features, config.features)
        width = spec.tokens[1]
        channels = config.channels
        if channels > width:
            raise UserError(
                f"--adapter.channels {channels}: the features have {width} channels; choose at most that many"
            )
        self.config = config
        self.needs_fit = config.init == "pca"
        self.grid, self.spec = spec.grid, placed_spec(config, spec, channels, setting)
        self.projection = nn.Parameter(torch.randn(width, channels) * width**-0.5)
        self.lift = nn.Parameter(torch.randn(channels, width) * channels**-0.5) if config.vf else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("correlation", torch.eye(channels), persistent=False)

    def specs(self) -> dict[str, StreamSpec]:
        return {FEATURES: self.spec}

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Float[Tensor, "_ ..."], Mapping[str, Features]]]) -> None:
        statistics = Covariance(len(self.projection), self.projection.device)
        for _, features in batches:
            statistics.add(features[self.encoder].tokens)
        variances, directions = principal(statistics.covariance, self.config.channels)
        self.projection.copy_(directions)
        self.running_mean.copy_(statistics.mean @ directions)
        self.running_var.copy_(variances)

    def forward(self, features: Mapping[str, Features]) -> Adapted:
        raw = features[self.encoder].tokens
        tokens = raw.float()
        with torch.autocast(tokens.device.type, enabled=False):
            projected = tokens @ self.projection
            if self.training:
                mean, covariance = self._moments(projected)
                variance = covariance.diagonal()
            else:
                mean, variance, covariance = self.running_mean, self.running_var, None
            normal = (projected - mean) * (variance + EPS).rsqrt()
            losses = {} if covariance is None else self._regularisers(covariance, normal, tokens)
            stream = placed(normal if self.config.normalize else projected, self.grid, self.spec)
        value = (stream * self.config.scale).to(raw.dtype)
        target = value.detach() if self.config.stop_gradient else value
        return Adapted(value={FEATURES: value}, target={FEATURES: target}, losses=losses)

    def learning_rate_scale(self, step: int) -> float:
        last = self.config.freeze_after
        return self.config.learning_rate_scale if last is None or step < last else 0.0

    def metrics(self) -> Mapping[str, Tensor]:
        eigenvalues = torch.linalg.eigvalsh(self.correlation).clamp_min(0.0)
        norms = self.projection.detach().norm(dim=0)
        return {
            "effective_rank": torch.special.entr(eigenvalues / eigenvalues.sum()).sum().exp(),
            "projected_std": self.running_var.mean().sqrt(),
            "column_norm_min": norms.min(),
            "column_norm_max": norms.max(),
            "off_diagonal_max": _off_diagonal(self.correlation).abs().max(),
        }

    def _moments(self, projected: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Mean and covariance over the samples and tokens of all processes; moves the running statistics."""
        rows = projected.flatten(0, 1)
        total = sum_over_processes(torch.cat([rows.sum(0), rows.new_full((1,), len(rows))]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = rows - mean
        covariance = sum_over_processes(centred.T @ centred) / count
        with torch.no_grad():
            unbiased = covariance.diagonal() * count / (count - 1).clamp_min(1.0)
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(unbiased, MOMENTUM)
        return mean, covariance

    def _regularisers(
        self, covariance: Float[Tensor, "d d"], normal: Float[Tensor, "b n d"], tokens: Float[Tensor, "b n e"]
    ) -> dict[str, Tensor]:
        config, channels = self.config, self.config.channels
        inverse_std = (covariance.diagonal() + EPS).rsqrt()
        correlation = covariance * inverse_std[:, None] * inverse_std  # = mean of the outer products of `normal`
        self.correlation.copy_(correlation.detach())
        losses = {}
        if config.ortho:
            columns = F.normalize(self.projection, dim=0)
            losses["ortho"] = config.ortho * _off_diagonal(columns.T @ columns).square().sum() / channels**2
        if config.cov:
            pairs = max(channels * (channels - 1), 1)
            losses["cov"] = config.cov * _off_diagonal(correlation).square().sum() / pairs
        if self.lift is not None:
            losses["vf"] = config.vf * _vision_foundation(normal @ self.lift, tokens)
        return losses


def _vision_foundation(lifted: Float[Tensor, "b n e"], tokens: Float[Tensor, "b n e"]) -> Float[Tensor, ""]:
    """VA-VAE's loss: similarities between tokens and with the originals, each free within its margin."""
    ours, theirs = F.normalize(lifted, dim=-1), F.normalize(tokens, dim=-1)
    difference = (ours @ ours.mT - theirs @ theirs.mT).abs()
    cosine = (ours * theirs).sum(-1)
    return F.relu(difference - VF_DISTANCE_MARGIN).mean() + F.relu(1 - VF_COSINE_MARGIN - cosine).mean()


def _off_diagonal(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    return matrix - torch.diag(matrix.diagonal())
