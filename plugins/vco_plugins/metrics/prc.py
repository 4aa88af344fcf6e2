"""Precision and recall of generated images, in the features of any encoder."""

from collections.abc import Sequence

import attrs
from attrs.validators import ge

from vco.api import Metric, MetricSetting, Score
from vco_plugins.gathered import PairwiseMetric

ROWS = 1000
"""Rows of a distance matrix that are held at once."""


class PRC(PairwiseMetric):
    """Precision: the share of generated images that lie near a real one; recall: of real ones near a generated one.

    Near is what lies no farther from an image than its k-th nearest neighbour in its own set. Both depend strongly on
    the numbers of images, which should be equal, and on the encoder: papers that follow ADM use Inception, others
    VGG-16. Computed by torch-fidelity in float64.

    Memory: the features of all images (50,000 of Inception: 400 MB), and more while they are compared.

    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991), eq. 1 to 3; torch-fidelity (`prc`).
    """

    @attrs.frozen(kw_only=True)
    class Config(Metric.Config):
        """What a user may set."""

        neighbours: int = attrs.field(default=3, validator=ge(1))
        """How many nearest neighbours of an image (k) reach as far as what is near to it, at least 1."""

    def __init__(self, config: Config, setting: MetricSetting) -> None:
        super().__init__(config, setting)
        self.config = config

    def score(self) -> Score:
        return self.scores()[0]

    def scores(self) -> Sequence[Score]:
        from torch_fidelity.metric_prc import prc_features_to_metric

        self.gathered.require(self.config.neighbours + 1, "precision and the recall")
        generated, real = self.gathered.both()
        found = prc_features_to_metric(
            generated,
            real,
            prc_neighborhood=self.config.neighbours,
            prc_batch_size=ROWS,
            save_cpu_ram=True,
            verbose=False,
        )
        protocol = {**self.gathered.counts(), "neighbours": self.config.neighbours}
        return [
            Score(name=f"{name} ({self.setting.encoder})", value=found[name], higher_is_better=True, protocol=protocol)
            for name in ("precision", "recall")
        ]
