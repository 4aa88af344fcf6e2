"""The inception score (IS) of generated images, from the classes that an encoder sees in them."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import attrs
import torch
from attrs.validators import ge
from jaxtyping import UInt8
from torch import Tensor

from vco.api import Features, Metric, MetricSetting, Score, UserError

LOGITS: Final = "logits"
KEYS: Final = "keys"


class InceptionScore(Metric):
    """Inception score: how sure a classifier is of each image, and how different its classes are over all of them.

    exp of the mean divergence between the classes of an image and those of all images, averaged over parts of the
    images. It looks at no real images, so it rewards what the classifier knows, and one image per class is enough for
    it. Inception says its logits without the bias of its last layer, as all published scores have them. Images are
    dealt to the parts by a hash of their pixels, so that neither batches nor processes matter. Computed by
    torch-fidelity.

    Source: Salimans et al. 2016 (arXiv 1606.03498), section 4; torch-fidelity (`isc`).
    """

    needs_real: ClassVar[bool] = False

    @attrs.frozen(kw_only=True)
    class Config(Metric.Config):
        """What a user may set."""

        parts: int = attrs.field(default=10, validator=ge(1))
        """Parts that the images are dealt to, at least 1; each has a score, and their mean counts."""

    def __init__(self, config: Config, setting: MetricSetting) -> None:
        if setting.features is None or not setting.features.classes:
            raise UserError(
                f"the inception score needs an encoder that tells classes, and {setting.encoder} does not; use "
                "inception (or digits-cnn for the digits)"
            )
        self.config = config
        self.setting = setting
        self._logits: list[Tensor] = []
        self._keys: list[Tensor] = []

    def update(self, images: UInt8[Tensor, "b c h w"], features: Features | None, generated: bool) -> None:
        assert features is not None, "a metric that needs features gets them"
        assert features.logits is not None, "an encoder that tells classes has logits"
        if generated:
            self._logits.append(features.logits.detach().float().cpu().clone())
            self._keys.append(torch.tensor([_key(image) for image in images.cpu()]))

    def state(self) -> Mapping[str, Tensor]:
        return {LOGITS: torch.cat(self._logits), KEYS: torch.cat(self._keys)} if self._logits else {}

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._logits = [state[LOGITS].cpu() for state in states if LOGITS in state]
        self._keys = [state[KEYS].cpu() for state in states if KEYS in state]

    def score(self) -> Score:
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

        count, parts = sum(map(len, self._logits)), self.config.parts
        if count < parts:
            raise UserError(
                f"the inception score is the mean over {parts} parts of the images, and there are {count} generated "
                f"images: set --eval.samples to at least {parts}"
            )
        logits = torch.cat(self._logits)[torch.cat(self._keys).argsort()]
        value = isc_features_to_metric(logits, splits=parts, shuffle=False)[KEY_METRIC_ISC_MEAN]
        return Score(
            name=f"IS ({self.setting.encoder})",
            value=value,
            higher_is_better=True,
            protocol={"generated": count, "parts": parts},
        )


def _key(image: UInt8[Tensor, "c h w"]) -> int:
    """A number below 2^62 that only the pixels decide."""
    digest = hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2
