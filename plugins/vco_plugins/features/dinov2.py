"""DINOv2 through transformers: the encoder of V-Co, RAE and REPA."""

import json
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Features, FeatureSource, StreamSpec, UserError

MODELS = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
KNOWN = {  # hub id -> width; all have patches of 14 pixels
    f"facebook/dinov2-{registers}{size}": width
    for registers in ("", "with-registers-")
    for size, width in {"small": 384, "base": 768, "large": 1024, "giant": 1536}.items()
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DINOv2(FeatureSource):
    """DINOv2 with or without registers, as V-Co and RAE use it (Oquab et al. 2023, Darcet et al. 2023).

    `forward`: bicubic resize, tokens after the final LayerNorm *without* its affine part, so that every
    token has mean 0 and variance 1 over its width; `pooled` is the class token of the same. `perceive`:
    bilinear resize, the stock final norm. Class and register tokens are not among the tokens. Gray images
    are repeated to three channels. Features are in the dtype of the weights (float32), also under autocast.

    Source: RAE (Zheng et al., arXiv 2510.11690) for `forward`; V-Co (arXiv 2603.16792) for both views.
    """

    @attrs.frozen(kw_only=True)
    class Config(FeatureSource.Config):
        """What a user may set."""

        weights: str = attrs.field(
            default="facebook/dinov2-with-registers-base", validator=attrs.validators.instance_of(str)
        )
        """Folder with config.json and model.safetensors, or a hub id in the local Hugging Face cache."""
        resolution: int = attrs.field(default=224, validator=attrs.validators.ge(1))
        """Side that images are resized to, in pixels; a multiple of the patch size (14)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, *, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.weights, self.resolution = config.weights, config.resolution
        channels, height, width = image_shape
        if channels not in (1, 3) or height != width:
            raise UserError(
                f"The feature source dinov2 reads square images of 1 or 3 channels, not {image_shape}; use "
                "data that crops them."
            )
        self.model_type, patch, features = _describe(config.weights)
        if config.resolution % patch:
            raise UserError(
                f"--features.resolution {config.resolution} is not a multiple of the patch size {patch} of "
                f"{config.weights}; take {max(1, round(config.resolution / patch)) * patch}."
            )
        side = config.resolution // patch
        self.spec = StreamSpec(shape=(side * side, features), grid=(side, side))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def check(self) -> None:
        weights = self.weights
        if Path(weights).is_dir():
            if not any((Path(weights) / name).is_file() for name in WEIGHT_FILES):
                raise UserError(
                    f"The folder {weights} (from --features.weights) has no {WEIGHT_FILES[0]}; "
                    f"{_how_to_get('facebook/dinov2-with-registers-base')}"
                )
        elif not (_cached(weights, "config.json") and any(_cached(weights, name) for name in WEIGHT_FILES)):
            raise UserError(
                f"The weights of dinov2 are missing: {weights} (from --features.weights) is no folder, and "
                f"its config.json and {WEIGHT_FILES[0]} are not in the local Hugging Face cache; "
                f"{_how_to_get(weights)}"
            )

    def load(self) -> None:
        import transformers
        from safetensors import SafetensorError

        self.check()
        weights = self.weights
        try:
            network, report = getattr(transformers, MODELS[self.model_type]).from_pretrained(
                weights,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise UserError(
                f"The weights {weights} (from --features.weights) cannot be loaded ({error}); get them anew."
            ) from error
        if missing := sorted(report["missing_keys"]):
            # transformers only reports these, and goes on with random numbers in their place
            raise UserError(
                f"The weights {weights} (from --features.weights) lack {len(missing)} tensors, such as "
                f"{missing[0]}; get them anew."
            )
        self.prefix = 1 + getattr(network.config, "num_register_tokens", 0)
        # taken out of the network, which so ends with the un-normed hidden states that both views start from
        self.norm: nn.LayerNorm = network.layernorm
        network.layernorm = nn.Identity()
        self.network: nn.Module = network
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        pixels = self._resized(images.to(self.mean.dtype) / 2 + 0.5, "bicubic")
        hidden = self._hidden(pixels)
        return self._features(F.layer_norm(hidden, hidden.shape[-1:], eps=self.norm.eps))

    def perceive(self, images: Float[Tensor, "b c h w"]) -> Features:
        pixels = self._resized(images.to(self.mean.dtype), "bilinear") / 2 + 0.5
        return self._features(self.norm(self._hidden(pixels)))

    def _resized(self, images: Float[Tensor, "b c h w"], mode: str) -> Float[Tensor, "b c r r"]:
        size = (self.resolution, self.resolution)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size=size, mode=mode, align_corners=False, antialias=False)

    def _hidden(self, pixels: Float[Tensor, "b c r r"]) -> Float[Tensor, "b m d"]:
        """All tokens after the last block, before the final norm; pixels in [0, 1]."""
        return self.network((pixels.expand(-1, 3, -1, -1) - self.mean) / self.std).last_hidden_state

    def _features(self, normed: Float[Tensor, "b m d"]) -> Features:
        assert self.spec.grid is not None
        normed = normed.to(self.mean.dtype)
        return Features(tokens=normed[:, self.prefix :], grid=self.spec.grid, pooled=normed[:, 0])


def _describe(weights: str) -> tuple[str, int, int]:
    """Model type, patch size and width: from the config.json in the folder or cache, else from `KNOWN`."""
    path = Path(weights) / "config.json" if Path(weights).is_dir() else _cached(weights, "config.json")
    if path is None and weights in KNOWN:
        return ("dinov2_with_registers" if "registers" in weights else "dinov2"), 14, KNOWN[weights]
    if path is None or not path.is_file():
        raise UserError(
            f"{weights!r} (from --features.weights) is neither a folder with a config.json, nor in the local "
            f"Hugging Face cache, nor one of the known ids {', '.join(KNOWN)}; give one of these."
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        model_type, patch, width = (
            content["model_type"],
            int(content["patch_size"]),
            int(content["hidden_size"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} (from --features.weights) is not the config.json of a DINOv2: {error!r}.") from error
    if model_type not in MODELS:
        raise UserError(
            f"{path} (from --features.weights) describes a model of type {model_type!r}; dinov2 reads "
            f"{' and '.join(MODELS)} only."
        )
    return model_type, patch, width


def _cached(hub_id: str, name: str) -> Path | None:
    """A file of a hub repository in the local cache; never asks the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(hub_id, name)
    except HFValidationError:  # a folder that does not exist is no hub id either
        return None
    return Path(path) if isinstance(path, str) else None


def _how_to_get(hub_id: str) -> str:
    return f"run `hf download {hub_id} --local-dir FOLDER` where there is network, then give --features.weights FOLDER."
