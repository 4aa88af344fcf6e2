"""Networks of timm as encoders: plain ViTs, and ConvNets, whose stages are maps of features."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import attrs
import torch
from attrs.validators import ge, instance_of, optional
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import UserError
from vco_plugins.encoders import Encoder, EncoderConfig, Network, Seen, Statistics
from vco_plugins.pretrained import Architecture, read_json, readable

PARTS: Final = ("blocks", "norm", "fc_norm", "num_prefix_tokens")
"""Only timm's plain ViTs have them all."""
LARGEST: Final = 224
"""Resolution that is not exceeded unless it is asked for."""


@attrs.frozen(kw_only=True)
class TimmConfig(EncoderConfig):
    """What a user may set; a source adds its default weights."""

    weights: str = attrs.field(validator=instance_of(str), metadata={"location": True})
    """Name in timm, with or without timm/ (its weights in the local cache), or a folder with a hub repository; random,
    or random:WEIGHTS, for its initial weights as a control."""
    resolution: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Side that images are resized to, in pixels; a multiple of the patch size (of a ConvNet: of its stride). By
    default that of the weights, but 224 where it is larger."""


class Found(NamedTuple):
    """What was found out about a network without its weights."""

    model: str
    arguments: Mapping[str, Any]
    """What timm builds it with."""
    own: Mapping[str, Any]
    """timm's pretrained_cfg: pixel statistics, size, classes."""


class TimmEncoder(Encoder):
    """A network of timm: a plain ViT, or a ConvNet read at one of its stages.

    Pixel statistics are those of the weights' own tag. Of a ViT, tokens are its patch tokens after a LayerNorm without
    affine part, and `pooled` is the class token of the same, or the network's own pooling where there is none. Of a
    ConvNet, tokens are the places of the map after its last stage (--features.layers 2: after its second), and
    `pooled` is the network's own pooling. `logits` are those of its classifier, if it has one.
    """

    weight_files: ClassVar[tuple[str, ...]] = ("model.safetensors",)
    shipped: ClassVar[str] = ""
    """Name of a folder of weights that ships with this package; empty where there is none."""

    @property
    def folder(self) -> Path | None:
        if self.shipped and self.weights == self.shipped:
            return Path(str(files("vco_plugins").joinpath("weights", self.shipped)))
        return super().folder

    @property
    def hub_id(self) -> str:
        import timm

        config: Any = timm.get_pretrained_cfg(self.weights.removeprefix("timm/"))
        return (config and config.hf_hub_id) or self.weights

    def describe(self, folder: Path | None) -> Architecture:
        found = self._found(folder)
        self.own_resolution = min(LARGEST, found.own.get("input_size", (3, LARGEST))[1])
        resolution = self.config.resolution or self.own_resolution
        with readable(folder or Path(self.weights)), torch.device("meta"):  # sizes without memory
            network: Any = _create(found, resolution)
            if not hasattr(network, "feature_info"):
                raise _neither(found.model)
        stages, classes = network.feature_info, int(found.own.get("num_classes") or 0)
        if is_vit(network):
            sizes = (stages[-1]["reduction"], network.embed_dim, len(network.blocks))
            return Architecture(found.model, *sizes, classes=classes)
        with torch.device("meta"):
            pooled = _pooled_width(network, resolution, found.model)
        if len(self.config.layers) > 1:
            raise UserError(f"--.layers names several stages of {found.model}, whose maps differ in size; name one.")
        chosen = self.config.layers[0] if self.config.layers else len(stages)
        stage = stages[min(chosen, len(stages)) - 1]
        width = stage["num_chs"]
        sizes = (stage["reduction"], width, len(stages), 0 if pooled == width else pooled)
        return Architecture(found.model, *sizes, classes=classes)

    def _found(self, folder: Path | None) -> Found:
        """The network's name and sizes, from a folder or by name."""
        import timm

        given = self.weights
        if folder is not None:
            found = read_json(folder / self.config_file, _found_in)
        else:
            config: Any = timm.get_pretrained_cfg(given.removeprefix("timm/"))
            model = given.removeprefix("timm/").partition(".")[0]
            found = Found(model, {}, {} if config is None else config.to_dict())
        if not timm.is_model(found.model):
            raise UserError(
                f"{given!r} (from --.weights) is neither a folder of timm's hub format, nor in the local "
                "Hugging Face cache, nor a name in timm (timm.list_pretrained('vit*') lists some); give one of these."
            )
        return found

    def read(self, folder: Path) -> Any:
        import timm

        create: Any = timm.create_model
        found = self._found(folder)
        with readable(folder), torch.device("meta"):
            vit = is_vit(_create(found, self.resolution))
        more: dict[str, Any] = {"img_size": self.resolution} if vit else {}
        with readable(folder):  # strict, because the number of classes is left as it was
            return create(f"local-dir:{folder}", pretrained=True, **more)

    def initial(self, folder: Path | None) -> Any:
        with readable(folder or Path(self.weights)):
            return _create(self._found(folder), self.resolution)

    def parts(self, module: Any) -> Network:
        if not is_vit(module):
            stages = [module.get_submodule(info["module"]) for info in module.feature_info]
            return Network(module=module, blocks=stages, norm=nn.Identity(), prefix=0, class_token=False)
        return Network(
            module=module,
            blocks=module.blocks,
            norm=module.norm,
            prefix=module.num_prefix_tokens,
            class_token=getattr(module, "embeds", module).cls_token is not None,
        )

    @property
    def perceived_layers(self) -> tuple[int, ...]:
        # the maps of other stages have another size than the spec tells
        last = (self.architecture.depth,)
        return last if self.network.class_token or is_vit(self.module) else self.config.layers or last

    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Seen:
        network: Any = self.module
        features = network.forward_features(pixels)
        logits = network.forward_head(features) if self.spec.classes else None
        return Seen(network.forward_head(features, pre_logits=True), logits)

    def pixels(self, folder: Path) -> Statistics:
        return read_json(folder / self.config_file, _statistics)


def _found_in(content: Any) -> Found:
    own = dict(content["pretrained_cfg"])
    own["num_classes"] = content.get("num_classes", own.get("num_classes"))
    return Found(content["architecture"], content.get("model_args") or {}, own)


def _statistics(content: Any) -> Statistics:
    said = content["pretrained_cfg"]
    return Statistics(tuple(said["mean"]), tuple(said["std"]))


def _create(found: Found, resolution: int) -> Any:
    """The network with initial weights; a ViT for images of a size."""
    import timm

    arguments: dict[str, Any] = {"num_classes": int(found.own.get("num_classes") or 0), **found.arguments}
    create: Any = timm.create_model
    try:
        return create(found.model, **{**arguments, "img_size": resolution})
    except TypeError:  # a ConvNet, which takes images of any size
        return create(found.model, **arguments)


def is_vit(network: Any) -> bool:
    """Whether a network is one of timm's plain ViTs."""
    return all(hasattr(network, part) for part in PARTS)


def _pooled_width(network: Any, resolution: int, model: str) -> int:
    """Width of the vector that a ConvNet pools to; raises `UserError` if the network is none."""
    try:
        network.eval()
        features = network.forward_features(torch.zeros(1, 3, resolution, resolution))
        pooled = network.forward_head(features, pre_logits=True)
    except Exception as error:  # of networks that were written for other images
        raise _neither(model) from error
    if features.ndim != 4 or features.shape[1] != network.num_features or pooled.ndim != 2:
        raise _neither(model)
    return int(pooled.shape[1])


def require_readable(model: str, arguments: Mapping[str, Any], side: int) -> None:
    """Raises `UserError` unless a `TimmEncoder` could read a network that timm builds with these arguments.

    Args:
        model: its name in timm.
        arguments: what timm builds it with.
        side: side of the images that it is for, in pixels.
    """
    with torch.device("meta"):
        network = _create(Found(model, arguments, {}), side)
        if is_vit(network):
            return
        _pooled_width(network, side, model)
    if side % (stride := network.feature_info[-1]["reduction"]):
        raise UserError(
            f"{model} has a stride of {stride} pixels, which does not divide the side of the images, {side}; give it a "
            'smaller one, of a resnet with the arguments {"output_stride": 8}.'
        )


def _neither(model: str) -> UserError:
    return UserError(
        f"{model} is neither a plain ViT nor a ConvNet; take a vit_, eva, beit or deit model, a resnet or a convnext."
    )


def arguments_of(text: str) -> dict[str, Any]:
    """What timm builds a network with, from a JSON object; raises `ValueError` if it is none."""
    found: Any = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return dict(found)
