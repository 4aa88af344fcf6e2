"""The Frechet distance between generated and held-out images, in the features of any `FeatureSource`.

Quality is named after its network, "FD (digits-cnn)", and called FID only where that network and protocol are FID's.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from vco.api import FeatureSource, ImageSet
from vco.config import to_plain
from vco.data import chunks, read, to_float
from vco.files import write_atomic
from vco.objective import Objective
from vco.randomness import generator
from vco.run import Run
from vco.sample import sample_many


class Moments:
    """Count, sum and sum of outer products of feature vectors in float64: mergeable, so no features are gathered."""

    def __init__(self, dim: int) -> None:
        # one tensor [1 + d + d*d], so that merging over processes is one all-reduce
        self.total = torch.zeros(1 + dim + dim * dim, dtype=torch.float64)
        self.dim = dim

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Adds the feature vectors of some images."""
        rows = features.double().cpu()
        self.total += torch.cat([torch.tensor([float(len(rows))]).double(), rows.sum(0), (rows.T @ rows).flatten()])

    def statistics(self) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Mean and (unbiased) covariance.

        Raises:
            ValueError: if fewer than two vectors were added.
        """
        count = self.total[0]
        if count < 2:
            raise ValueError(f"a covariance needs at least two images, got {int(count)}")
        mean = self.total[1 : 1 + self.dim] / count
        outer = self.total[1 + self.dim :].view(self.dim, self.dim)
        return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), by two symmetric eigendecompositions in float64.

    Source: Heusel et al. 2017 (FID), Eq. 6. The trace of the root is the sum of the roots of the eigenvalues of
    C_a^(1/2) C_b C_a^(1/2): the same value as by a general matrix root, faster and never complex.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a.statistics(), b.statistics()
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


@attrs.frozen(kw_only=True)
class Score:
    """The result of an evaluation."""

    metric: str
    """For example "FD (digits-cnn)"."""
    value: float
    """Generated against held-out images; lower is better."""
    real_value: float
    """As many training images against the same held-out images: what a perfect generator would get."""
    samples: int
    """Number of generated images."""


class Evaluation:
    """Measures a model; every process takes its share of the images and the moments are summed."""

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        self.run = run
        self.accelerator = accelerator
        self.device = accelerator.device
        self.evaluator: FeatureSource = run.evaluator.to(self.device)

    @torch.no_grad()
    def score(self, objective: Objective) -> Score:
        """Samples from the model and compares with the held-out set."""
        config = self.run.config
        mine = range(self.accelerator.process_index, config.eval.samples, self.accelerator.num_processes)
        with self.accelerator.autocast():
            generated = self._moments(sample_many(self.run, objective, mine, self.device), len(mine), "sampling")
        test, train = self.run.data.test(), self.run.data.train()
        held_out = self._real(test, len(test))
        trained = self._real(train, min(len(train), config.eval.samples))
        return Score(
            metric=f"FD ({config.evaluator.name})",
            value=frechet_distance(generated, held_out),
            real_value=frechet_distance(trained, held_out),
            samples=config.eval.samples,
        )

    def _real(self, images: ImageSet, count: int) -> Moments:
        chosen = torch.randperm(len(images), generator=generator(0, "evaluation"))[:count]
        mine: list[int] = chosen[self.accelerator.process_index :: self.accelerator.num_processes].tolist()
        batches = chunks(mine, self.run.config.sample.batch_size)
        reader = read(images, batches, self.run.config.train)
        return self._moments(reader, len(mine), "real images")

    def _moments(self, batches: Iterable[UInt8[Tensor, "b c h w"]], count: int, title: str) -> Moments:
        """Moments of the pooled features of uint8 images, summed over processes."""
        result = Moments(self._dim)
        bar = tqdm(total=count, desc=title, unit="image", disable=not self.accelerator.is_main_process, leave=False)
        with bar:
            for images in batches:
                with torch.autocast(self.device.type, enabled=False):
                    result.update(self.evaluator.perceive(to_float(images.to(self.device))).pooled)
                bar.update(len(images))
        total: Any = self.accelerator.reduce(result.total.to(self.device), reduction="sum")
        result.total = total.cpu()
        return result

    @property
    def _dim(self) -> int:
        blank = torch.zeros(1, *self.run.data.image_shape, device=self.device)
        return self.evaluator.perceive(blank).pooled.shape[1]


def evaluated_step(folder: Path) -> int | None:
    """The step that `folder`/eval.json is about; None if there is none that can be read."""
    try:
        return json.loads((folder / "eval.json").read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_score(score: Score, run: Run, step: int, folder: Path) -> None:
    """Writes eval.json: the score and all that it depends on."""
    config = run.config
    protocol = {
        "step": step,
        "ema_decay": config.train.ema_decays[0] if config.train.ema_decays else None,
        "seed": config.seed,
        "sample": to_plain(config.sample),
        "guidance": {"name": config.guidance.name, **to_plain(config.guidance.config)},
        "solver": {"name": config.solver.name, **to_plain(config.solver.config)},
        "labels": "balanced: image index modulo the number of classes",
        "reference": f"held-out split of {config.data.name}",
        "torch": str(torch.__version__),
    }
    write_atomic(folder / "eval.json", json.dumps(attrs.asdict(score) | protocol, indent=1) + "\n")
