"""Inception-v3 through torch-fidelity: the features of FID."""

import io
import pickle
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Features, FeatureSetting, FeatureSource, FeatureSpec, UserError


class Inception(FeatureSource):
    """Inception-v3 pool features (2,048), the features of FID (Heusel et al. 2017), through torch-fidelity.

    Images are rounded to 8 bits, as image files are, then resized as TensorFlow 1 did: there is no gradient,
    so this is a source to score with, not to align to. `pooled` is the feature vector, `tokens` the same as
    a single token. `logits` are those of the inception score, which has them without the bias of the last layer.
    Always computed in float32. Gray images are repeated to three channels.

    Source: Szegedy et al. 2016 (network); Heusel et al. 2017 (FID); torch-fidelity (`inception-v3-compat`).
    """

    differentiable: ClassVar[bool] = False

    @attrs.frozen(kw_only=True)
    class Config(FeatureSource.Config):
        """What a user may set."""

        weights: str = attrs.field(default="", validator=attrs.validators.instance_of(str), metadata={"location": True})
        """torch-fidelity's inception weights (.pth or .safetensors file); by default its cached download."""

    def __init__(self, config: Config, setting: FeatureSetting) -> None:
        super().__init__()
        if setting.image_shape[0] not in (1, 3):
            raise UserError(
                f"The feature source inception reads images with 1 or 3 channels, not {setting.image_shape}; use data "
                "that has them, or another evaluation network."
            )
        self.config = config
        self.weights = config.weights
        self.spec = FeatureSpec(tokens=(1, 2048), grid=(1, 1), classes=1008)

    def check(self) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        if not self._path.is_file():
            origin = "from --.weights" if self.weights else "torch-fidelity's cached download"
            raise UserError(
                f"the weights are missing: no file {self._path} ({origin}); get {URL_INCEPTION_V3} where there is "
                "network, then give --.weights FILE."
            )

    def load(self) -> None:
        from safetensors import SafetensorError
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.check()
        # torch-fidelity unpickles anything: it gets a copy of what a tensors-only reader let through
        copy = io.BytesIO()
        try:
            torch.save(_tensors(self._path), copy)
            copy.seek(0)
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=copy
            )
        except (
            OSError,
            RuntimeError,
            ValueError,
            EOFError,
            TypeError,
            pickle.UnpicklingError,
            SafetensorError,
        ) as error:
            raise UserError(
                f"{self._path} is not torch-fidelity's inception state dict ({type(error).__name__}); get it anew."
            ) from error
        self.network: nn.Module = network.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        with torch.autocast(images.device.type, enabled=False):
            pooled, logits = self.network(levels.expand(-1, 3, -1, -1))
        return Features(tokens=pooled[:, None], grid=(1, 1), pooled=pooled, logits=logits)

    @property
    def _path(self) -> Path:
        if self.weights:
            return Path(self.weights)
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        return Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load

        return load(path.read_bytes())
    return torch.load(path, map_location="cpu", weights_only=True)
