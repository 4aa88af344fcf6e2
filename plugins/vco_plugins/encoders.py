"""What the feature sources that wrap published ViTs share: two views, sizes, and which tokens are patches.

A source adds how its library describes, reads, initialises and runs the network: the abstract methods of `Encoder`.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import deep_iterable, ge, in_
from jaxtyping import Float
from torch import Tensor, nn

from vco.api import Features, FeatureSetting, FeatureSource, FeatureSpec, UserError
from vco_plugins.pretrained import SAFETENSORS, Architecture, cached, download, read_json, why_not_on_hub


class Statistics(NamedTuple):
    """Mean and standard deviation of the pixels that a network was trained on, per channel, for pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Resize(NamedTuple):
    """How images of another size are brought to the encoder's resolution; always with align_corners=False."""

    mode: str
    antialias: bool


class Seen(NamedTuple):
    """What a network says of a batch as a whole."""

    pooled: Tensor | None
    """Its own pooled output [b, e]; None: the normed class token."""
    logits: Tensor | None = None
    """What it says of its classes [b, k], if it is a classifier."""


RANDOM: Final = "random"
"""What --.weights says to have a network with initial weights, as a control: random, or random:WEIGHTS."""
IMAGENET: Final = Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF: Final = Statistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@attrs.frozen(kw_only=True)
class Network:
    """A network, and where its parts are."""

    module: nn.Module
    blocks: Sequence[nn.Module]
    """What can be read: a transformer's blocks yield [b, prefix + n, d], stages of a ConvNet [b, d, rows, columns]."""
    norm: nn.Module
    """The stock final norm."""
    prefix: int
    """Class and register tokens in front of the patch tokens."""
    class_token: bool = True
    """Whether the first of them is a class token."""


@attrs.frozen(kw_only=True)
class EncoderConfig(FeatureSource.Config):
    """What a user may set; a source adds its default weights and resolution.

    With the weights "random", or "random:WEIGHTS", the network has initial weights, always the same ones: a control.
    """

    weights: str
    resolution: int | None
    layers: tuple[int, ...] = attrs.field(default=(), validator=deep_iterable(ge(1)))
    """Blocks whose tokens are averaged before the norm, as in 10,11,12; 1 is the first; by default the last alone."""
    norm: Literal["plain", "affine", "none"] = attrs.field(default="plain", validator=in_(("plain", "affine", "none")))
    """LayerNorm of the tokens: plain (mean 0, variance 1), the network's own affine final norm, or none."""


class Encoder(FeatureSource):
    """A published ViT: `forward` is what the config asks for, `perceive` the stock view.

    Of images that have the encoder's resolution, and unless the stream reads other blocks, both come out of one pass.

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
    own_resolution: int = 224
    """Side that images are resized to, where the config does not say one."""
    config_file: ClassVar[str] = "config.json"
    weight_files: ClassVar[tuple[str, ...]] = SAFETENSORS
    """Any one of these must be beside the config file."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, setting: FeatureSetting) -> None:
        super().__init__()
        self.config = config
        first, _, named = config.weights.partition(":")
        self.random = first == RANDOM
        """Whether it is a control: the network with initial weights, which know nothing."""
        self.weights = (named or type(self.config)().weights) if self.random else config.weights
        """The weights, or of a control those whose network it has."""
        channels, height, width = setting.image_shape
        if channels not in (1, 3) or height != width:
            raise UserError(
                f"The feature source {self.name} reads square images of 1 or 3 channels, not {setting.image_shape}; "
                "use data that crops them."
            )
        self.architecture = self.describe(self.folder)
        _, patch, tokens, depth, pooled, classes = self.architecture
        self.resolution = config.resolution or self.own_resolution
        if self.resolution % patch:
            raise UserError(
                f"--.resolution {self.resolution} is not a multiple of the patch size {patch} of "
                f"{self.weights}; take {max(1, round(self.resolution / patch)) * patch}."
            )
        if config.layers and max(config.layers) > depth:
            raise UserError(f"--.layers asks for block {max(config.layers)}; {self.weights} has {depth}.")
        side = self.resolution // patch
        self.spec = FeatureSpec(
            tokens=(side * side, tokens),
            grid=(side, side),
            pooled=pooled or tokens,
            classes=classes,
            remark="random weights" if self.random else "",
        )
        for name in Statistics._fields:
            self.register_buffer(name, torch.zeros(3, 1, 1), persistent=False)  # set by `load`

    @property
    def hub_id(self) -> str:
        """The hub repository of the weights, where they are no folder."""
        return self.weights

    @property
    def folder(self) -> Path | None:
        """The folder or cached snapshot that holds the config file, if there is one; never asks the network."""
        given = Path(self.weights)
        path = given / self.config_file if given.is_dir() else cached(self.hub_id, self.config_file)
        return path.parent if path is not None and path.is_file() else None

    @property
    def is_here(self) -> bool:
        """Whether config file and weights are on this machine."""
        folder = self.folder
        return folder is not None and any((folder / name).is_file() for name in self.weight_files)

    def check(self) -> None:
        if self.random or self.is_here:
            return
        given, files = Path(self.weights), f"{self.config_file} and {self.weight_files[0]}"
        where = f"{self.weights} (from --.weights)"
        if given.is_dir():
            wanted, hub_id = f"the folder {where} has no {self.weight_files[0]}", type(self.config)().weights
            if (given / "pytorch_model.bin").is_file():
                raise UserError(
                    f"{wanted}, but the older pytorch_model.bin; convert it once: load that folder with its library "
                    "and save it with safe serialization, as AutoModel.from_pretrained(F).save_pretrained(F) does."
                )
        elif not (why_not := why_not_on_hub(self.hub_id, self.config_file)):
            return  # `load` downloads them
        else:
            wanted = f"{where} is no folder, its {files} are not in the local Hugging Face cache, and {why_not}"
            hub_id = self.hub_id
        raise UserError(
            f"the weights are missing: {wanted}; run `hf download {hub_id} --local-dir FOLDER` where there is network, "
            "then give --.weights FOLDER."
        )

    def load(self) -> None:
        if self.random:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module = self.initial(self.folder)
            self._hold(module, self.pixels(self.folder) if self.folder else self.statistics)
            return
        self.check()
        if not self.is_here:
            download(
                self.hub_id, (self.config_file, "preprocessor_config.json", "model-*.safetensors", *self.weight_files)
            )
        folder = self.folder
        if folder is None or not self.is_here:
            raise UserError(f"{self.hub_id} (from --.weights) has no file {' or '.join(self.weight_files)}.")
        if (found := self.describe(folder)) != self.architecture:
            raise UserError(
                f"{folder} holds another network ({found}) than {self.weights} is known to be "
                f"({self.architecture}); give --.weights {folder}, which reads its sizes."
            )
        self._hold(self.read(folder), self.pixels(folder))

    def sketch(self) -> None:
        self._hold(self.initial(self.folder), self.statistics)

    def _hold(self, module: Any, statistics: Statistics) -> None:
        """Keeps a network and the statistics of its pixels."""
        for buffer, values in zip((self.mean, self.std), statistics, strict=True):
            buffer.copy_(torch.tensor(values)[:, None, None])
        self.module, self.network = module, self.parts(module)
        self.requires_grad_(False).eval()

    @abstractmethod
    def describe(self, folder: Path | None) -> Architecture:
        """The network's sizes from its files, or without any from its name; raises `UserError` if neither is known."""

    @abstractmethod
    def read(self, folder: Path) -> Any:
        """The network with the weights in a folder; raises `UserError` if any are missing."""

    @abstractmethod
    def initial(self, folder: Path | None) -> Any:
        """The same network with initial weights; without a folder, of the sizes of `architecture`."""

    @abstractmethod
    def parts(self, module: Any) -> Network:
        """Where the parts of the network are."""

    @abstractmethod
    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Seen:
        """Runs the network on normalised pixels."""

    def pixels(self, folder: Path) -> Statistics:
        """The pixel statistics: those of the checkpoint's own preprocessor file, else those of the family."""
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return self.statistics
        return read_json(path, lambda content: Statistics(tuple(content["image_mean"]), tuple(content["image_std"])))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        layers = self.config.layers or (self.architecture.depth,)
        tokens, seen = self._hidden(self._resized(images.to(self.mean.dtype) / 2 + 0.5, self.stream_resize), layers)
        hidden = tokens
        if self.config.norm == "plain":
            hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=getattr(self.network.norm, "eps", 1e-6))
        elif self.config.norm == "affine":
            hidden = self.network.norm(hidden)
        same_pass = images.shape[-2:] == (self.resolution, self.resolution) and set(layers) == set(
            self.perceived_layers
        )
        perceived = self._perceived(tokens, seen) if same_pass else None
        return self._features(hidden, Seen(None, seen.logits) if self.network.class_token else seen, perceived)

    def block_modules(self) -> Sequence[nn.Module]:
        return list(self.network.blocks)

    def perceive(self, images: Float[Tensor, "b c h w"]) -> Features:
        pixels = self._resized(images.to(self.mean.dtype), self.loss_resize) / 2 + 0.5
        return self._perceived(*self._hidden(pixels, self.perceived_layers))

    @property
    def perceived_layers(self) -> tuple[int, ...]:
        """Blocks that `perceive` reads: the last."""
        return (self.architecture.depth,)

    def _resized(self, images: Float[Tensor, "b c h w"], resize: Resize) -> Float[Tensor, "b c r r"]:
        size = (self.resolution, self.resolution)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size=size, mode=resize.mode, align_corners=False, antialias=resize.antialias)

    def _hidden(self, pixels: Float[Tensor, "b c r r"], layers: tuple[int, ...]) -> tuple[Float[Tensor, "b m d"], Seen]:
        """The mean of the tokens after these blocks, un-normed, and the stock outputs; pixels in [0, 1]."""
        found: dict[int, Tensor] = {}

        def keep(layer: int) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                tokens = output[0] if isinstance(output, tuple) else output
                found[layer] = tokens.flatten(2).transpose(1, 2) if tokens.ndim == 4 else tokens

            return hook

        handles = [self.network.blocks[layer - 1].register_forward_hook(keep(layer)) for layer in set(layers)]
        try:
            seen = self.run((pixels.expand(-1, 3, -1, -1) - self.mean) / self.std)
        finally:
            for handle in handles:
                handle.remove()
        count, width = self.spec.tokens
        expected = (len(pixels), self.network.prefix + count, width)
        for layer, tokens in found.items():
            if tokens.shape != expected:
                raise UserError(
                    f"Block {layer} of {self.weights} yields {tuple(tokens.shape)}, not {expected}: {self.name} "
                    "cannot tell which patch is which; take a plain ViT."
                )
        return torch.stack([found[layer].to(self.mean.dtype) for layer in layers]).mean(0), seen

    def _perceived(self, hidden: Float[Tensor, "b m d"], seen: Seen) -> Features:
        return self._features(self.network.norm(hidden), seen)

    def _features(self, hidden: Float[Tensor, "b m d"], seen: Seen, perceived: Features | None = None) -> Features:
        hidden = hidden.to(self.mean.dtype)
        return Features(
            tokens=hidden[:, self.network.prefix :],
            grid=self.spec.grid,
            pooled=hidden[:, 0] if seen.pooled is None else seen.pooled.to(self.mean.dtype),
            logits=None if seen.logits is None else seen.logits.to(self.mean.dtype),
            perceived=perceived,
        )
