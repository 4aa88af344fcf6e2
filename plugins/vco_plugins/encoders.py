"""What the feature sources that wrap published ViTs share: two views, sizes, where the tokens and the weights are.

A source adds how its library describes, builds and runs the network: `describe`, `build` and `run` of `Encoder`.
"""

import json
import pickle
from abc import abstractmethod
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import deep_iterable, ge, in_
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Features, FeatureSource, StreamSpec, UserError

Read = TypeVar("Read")

SAFETENSORS: Final = ("model.safetensors", "model.safetensors.index.json")


class Statistics(NamedTuple):
    """Mean and standard deviation of the pixels that a network was trained on, per channel, for pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Resize(NamedTuple):
    """How images of another size are brought to the encoder's resolution; always with align_corners=False."""

    mode: str
    antialias: bool


IMAGENET: Final = Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF: Final = Statistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Architecture(NamedTuple):
    """What must be known of a network before its weights are read; `kind` is the library's word for its family."""

    kind: str
    patch: int
    width: int
    depth: int


@attrs.frozen(kw_only=True)
class Network:
    """A built network, and where its parts are."""

    module: nn.Module
    blocks: Sequence[nn.Module]
    """The transformer's blocks; each yields [b, prefix + n, d]."""
    norm: nn.Module
    """The stock final norm."""
    prefix: int
    """Class and register tokens in front of the patch tokens."""
    class_token: bool = True
    """Whether the first of them is a class token."""


@attrs.frozen(kw_only=True)
class EncoderConfig(FeatureSource.Config):
    """What a user may set; a source adds its default weights and resolution."""

    weights: str
    resolution: int
    layers: tuple[int, ...] = attrs.field(default=(), validator=deep_iterable(ge(1)))
    """Blocks whose tokens are averaged before the norm, as in 10,11,12; 1 is the first; by default the last alone."""
    norm: Literal["plain", "affine", "none"] = attrs.field(default="plain", validator=in_(("plain", "affine", "none")))
    """LayerNorm of the tokens: plain (mean 0, variance 1), the network's own affine final norm, or none."""


class Encoder(FeatureSource):
    """A published ViT: `forward` is what the config asks for, `perceive` the stock view.

    The number of tokens is checked in every forward pass, and the resolution is a multiple of the patch, so that no
    patch is cropped or dropped unnoticed. Gray images are repeated to three channels. Features are in the dtype of the
    weights (float32), also under autocast.
    """

    name: ClassVar[str]
    """The registered name, for messages."""
    statistics: ClassVar[Statistics] = IMAGENET
    """Pixel statistics, where the files do not say others."""
    stream_resize: ClassVar[Resize] = Resize("bicubic", antialias=False)
    """Resize of `forward`."""
    loss_resize: ClassVar[Resize] = Resize("bilinear", antialias=False)
    """Resize of `perceive`."""
    config_file: ClassVar[str] = "config.json"
    weight_files: ClassVar[tuple[str, ...]] = SAFETENSORS
    """Any one of these must be beside the config file."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, *, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        channels, height, width = image_shape
        if channels not in (1, 3) or height != width:
            raise UserError(
                f"The feature source {self.name} reads square images of 1 or 3 channels, not {image_shape}; use "
                "data that crops them."
            )
        self.architecture = self.describe(self.folder)
        patch, depth = self.architecture.patch, self.architecture.depth
        if config.resolution % patch:
            raise UserError(
                f"--features.resolution {config.resolution} is not a multiple of the patch size {patch} of "
                f"{config.weights}; take {max(1, round(config.resolution / patch)) * patch}."
            )
        if config.layers and max(config.layers) > depth:
            raise UserError(f"--features.layers asks for block {max(config.layers)}; {config.weights} has {depth}.")
        side = config.resolution // patch
        self.spec = StreamSpec(shape=(side * side, self.architecture.width), grid=(side, side))
        for name in Statistics._fields:
            self.register_buffer(name, torch.zeros(3, 1, 1), persistent=False)  # set by `load`

    @property
    def hub_id(self) -> str:
        """The hub repository of the weights, where they are no folder."""
        return self.config.weights

    @property
    def folder(self) -> Path | None:
        """The folder or cached snapshot that holds the config file, if there is one; never asks the network."""
        given = Path(self.config.weights)
        path = given / self.config_file if given.is_dir() else _cached(self.hub_id, self.config_file)
        return path.parent if path is not None and path.is_file() else None

    def check(self) -> None:
        folder, files = self.folder, f"{self.config_file} and {self.weight_files[0]}"
        if folder is not None and any((folder / name).is_file() for name in self.weight_files):
            return
        where = f"{self.config.weights} (from --features.weights)"
        if Path(self.config.weights).is_dir():
            wanted, hub_id = f"the folder {where} has no {self.weight_files[0]}", type(self.config)().weights
        else:
            wanted = f"{where} is no folder, and its {files} are not in the local Hugging Face cache"
            hub_id = self.hub_id
        raise UserError(
            f"The weights of {self.name} are missing: {wanted}; run `hf download {hub_id} --local-dir FOLDER` where "
            "there is network, then give --features.weights FOLDER."
        )

    def load(self) -> None:
        self.check()
        assert (folder := self.folder) is not None
        network = self.build(folder)
        for buffer, values in zip((self.mean, self.std), self.pixels(folder), strict=True):
            buffer.copy_(torch.tensor(values)[:, None, None])
        self.module, self.network = network.module, network
        self.requires_grad_(False).eval()

    @abstractmethod
    def describe(self, folder: Path | None) -> Architecture:
        """The network's sizes from its files, or without any from its name; raises `UserError` if neither is known."""

    @abstractmethod
    def build(self, folder: Path) -> Network:
        """Builds the network and reads its weights; raises `UserError` if any are missing."""

    @abstractmethod
    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Float[Tensor, "b e"] | None:
        """Runs the network on normalised pixels; returns its own pooled output (None: the normed class token)."""

    def pixels(self, folder: Path) -> Statistics:
        """The pixel statistics: those of the checkpoint's own preprocessor file, else those of the family."""
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return self.statistics
        return read_json(path, lambda content: Statistics(tuple(content["image_mean"]), tuple(content["image_std"])))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        layers = self.config.layers or (self.architecture.depth,)
        hidden, pooled = self._hidden(self._resized(images.to(self.mean.dtype) / 2 + 0.5, self.stream_resize), layers)
        if self.config.norm == "plain":
            hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=getattr(self.network.norm, "eps", 1e-6))
        elif self.config.norm == "affine":
            hidden = self.network.norm(hidden)
        return self._features(hidden, None if self.network.class_token else pooled)

    def perceive(self, images: Float[Tensor, "b c h w"]) -> Features:
        pixels = self._resized(images.to(self.mean.dtype), self.loss_resize) / 2 + 0.5
        hidden, pooled = self._hidden(pixels, (self.architecture.depth,))
        return self._features(self.network.norm(hidden), pooled)

    def _resized(self, images: Float[Tensor, "b c h w"], resize: Resize) -> Float[Tensor, "b c r r"]:
        size = (self.config.resolution, self.config.resolution)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size=size, mode=resize.mode, align_corners=False, antialias=resize.antialias)

    def _hidden(
        self, pixels: Float[Tensor, "b c r r"], layers: tuple[int, ...]
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b e"] | None]:
        """The mean of the tokens after these blocks, un-normed, and the stock pooled output; pixels in [0, 1]."""
        found: dict[int, Tensor] = {}

        def keep(layer: int) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                found[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [self.network.blocks[layer - 1].register_forward_hook(keep(layer)) for layer in set(layers)]
        try:
            pooled = self.run((pixels.expand(-1, 3, -1, -1) - self.mean) / self.std)
        finally:
            for handle in handles:
                handle.remove()
        count, width = self.spec.shape
        expected = (len(pixels), self.network.prefix + count, width)
        for layer, tokens in found.items():
            if tokens.shape != expected:
                raise UserError(
                    f"Block {layer} of {self.config.weights} (from --features.weights) yields {tuple(tokens.shape)}, "
                    f"not {expected}: {self.name} cannot tell which patch is which; take a plain ViT."
                )
        return torch.stack([found[layer].to(self.mean.dtype) for layer in layers]).mean(0), pooled

    def _features(self, hidden: Float[Tensor, "b m d"], pooled: Float[Tensor, "b e"] | None) -> Features:
        assert self.spec.grid is not None
        hidden = hidden.to(self.mean.dtype)
        pooled = hidden[:, 0] if pooled is None else pooled.to(self.mean.dtype)
        return Features(tokens=hidden[:, self.network.prefix :], grid=self.spec.grid, pooled=pooled)


def read_json(path: Path, reader: Callable[[Any], Read]) -> Read:
    """What `reader` makes of a JSON file; raises `UserError` if it is not such a file as the reader expects."""
    try:
        return reader(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} (from --features.weights) is not the {path.name} of an encoder that this source reads: {error!r}."
        ) from error


def read_config(
    folder: Path | None,
    weights: str,
    *,
    kinds: Collection[str],
    known: Mapping[str, Architecture],
    defaults: Mapping[str, int] | None = None,
) -> Architecture:
    """The architecture from a config.json of transformers; without a folder, that of a known hub id.

    Args:
        folder: where config.json is, or None.
        weights: what the user gave, for messages and for `known`.
        kinds: the model types that the source reads.
        known: hub id -> architecture.
        defaults: sizes that the family's config files leave out.
    """

    def reader(content: Any) -> Architecture:
        kind = content["model_type"]
        if kind not in kinds:
            raise UserError(
                f"{weights} (from --features.weights) holds a model of type {kind!r}; this source reads "
                f"{' and '.join(kinds)} only."
            )
        sizes = {**(defaults or {}), **content.get("vision_config", content)}
        patch, width, depth = (int(sizes[key]) for key in ("patch_size", "hidden_size", "num_hidden_layers"))
        return Architecture(kind, patch, width, depth)

    if folder is not None:
        return read_json(folder / "config.json", reader)
    if weights in known:
        return known[weights]
    raise unknown(weights, "config.json", known)


def unknown(weights: str, config_file: str, known: Collection[str]) -> UserError:
    """The error for weights that are neither here nor known by name."""
    return UserError(
        f"{weights!r} (from --features.weights) is neither a folder with a file {config_file}, nor in the local "
        f"Hugging Face cache, nor one of the known ids {', '.join(known)}; give one of these."
    )


def pretrained(name: str, folder: Path, **settings: Any) -> Any:
    """The network of class `name` of transformers with the weights in a folder, float32; all of them must be there.

    Source: transformers' `from_pretrained`, which only reports missing tensors, and goes on with random ones.
    """
    import transformers

    with readable(folder):
        network, report = getattr(transformers, name).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=any((folder / file).is_file() for file in SAFETENSORS),
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            **settings,
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"The weights in {folder} (from --features.weights) lack {len(missing)} tensors, such as {missing[0]}; "
            "get them anew."
        )
    return network


@contextmanager
def readable(folder: Path) -> Generator[None]:
    """Turns what libraries raise on damaged or unfitting weights into a `UserError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(
            f"The weights in {folder} (from --features.weights) cannot be loaded ({error}); get them anew."
        ) from error


def _cached(hub_id: str, name: str) -> Path | None:
    """A file of a hub repository in the local cache; never asks the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(hub_id, name)
    except HFValidationError:  # a folder that does not exist is no hub id either
        return None
    return Path(path) if isinstance(path, str) else None
