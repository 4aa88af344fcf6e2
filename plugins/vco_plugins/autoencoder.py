"""The convolutional autoencoder of latent diffusion, in the file format of diffusers (`AutoencoderKL`)."""

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import deep_iterable, ge, gt, instance_of, min_len
from jaxtyping import Float
from torch import Tensor, nn

EPS: Final = 1e-6
"""Of every group norm."""
LOG_VARIANCE: Final = (-30.0, 20.0)
"""Bounds of the posterior's log variance."""
OLD_NAMES: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the attention's layers in files of 2022 -> names since then."""

Maps = Float[Tensor, "b c h w"]
Other = Float[Tensor, "b e i j"]


def _is_null(config: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if value is not None:
        deep_iterable(instance_of((int, float)))(config, attribute, value)
        if len(value) != config.latent_channels:
            raise ValueError(f"{attribute.name} has {len(value)} numbers for {config.latent_channels} channels")


def _numbers(value: Any) -> Any:
    return None if value is None else tuple(value)


@attrs.frozen(kw_only=True)
class AutoencoderConfig:
    """What config.json says of an `AutoencoderKL`; what a file leaves out has the value that diffusers gives it."""

    in_channels: int = attrs.field(default=3, validator=ge(1))
    out_channels: int = attrs.field(default=3, validator=ge(1))
    block_out_channels: tuple[int, ...] = attrs.field(
        default=(64,), converter=tuple, validator=[min_len(1), deep_iterable(ge(1))]
    )
    """Width of each level, the finest first; each level but the last halves the size."""
    layers_per_block: int = attrs.field(default=1, validator=ge(1))
    """Residual blocks of a level of the encoder; the decoder has one more."""
    latent_channels: int = attrs.field(default=4, validator=ge(1))
    norm_num_groups: int = attrs.field(default=32, validator=ge(1))
    scaling_factor: float = attrs.field(default=0.18215, validator=gt(0.0))
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = attrs.field(default=None, converter=_numbers, validator=_is_null)
    latents_std: tuple[float, ...] | None = attrs.field(default=None, converter=_numbers, validator=_is_null)
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @classmethod
    def of_file(cls, content: Mapping[str, Any]) -> "AutoencoderConfig":
        """The settings in a config.json.

        Raises:
            ValueError: if the file is one of another network, or asks for layers that this one does not have.
            TypeError: likewise.
        """
        kind = content["_class_name"]
        if kind != "AutoencoderKL":
            raise ValueError(f"it is one of a network {kind}, and only AutoencoderKL is read")
        for name, wanted in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            if odd := set(content.get(name, ())) - {wanted}:
                raise ValueError(f"its {name} {', '.join(sorted(odd))} are not built, only {wanted}")
        if content.get("act_fn", "silu") != "silu":
            raise ValueError(f"its act_fn is {content['act_fn']}, and only silu is built")
        return cls(**{name: content[name] for name in attrs.fields_dict(cls) if name in content})

    @property
    def factor(self) -> int:
        """Side of the square of pixels that a latent stands for."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def mean(self) -> tuple[float, ...]:
        """What is taken from each latent channel before it is scaled."""
        return self.latents_mean or (self.shift_factor or 0.0,) * self.latent_channels

    @property
    def scale(self) -> tuple[float, ...]:
        """What each latent channel is multiplied with then."""
        spread = self.latents_std or (1.0,) * self.latent_channels
        return tuple(self.scaling_factor / each for each in spread)


class Autoencoder(nn.Module):
    """Images to a Gaussian over latents, and latents to images; latents are as they are, neither shifted nor scaled.

    Names of parameters are those of diffusers, so that its files can be read.

    Source: Rombach et al. (arXiv 2112.10752); layers as in diffusers' AutoencoderKL.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.latent_channels
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.use_post_quant_conv else nn.Identity()

    def encode(self, images: Maps) -> tuple[Other, Other]:
        """Mean and standard deviation of the latents of images in [-1, 1]."""
        mean, log_variance = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        return mean, torch.exp(log_variance.clamp(*LOG_VARIANCE) / 2)

    def decode(self, latents: Maps) -> Other:
        """Images of latents, nominally in [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(latents))


def current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under today's names; attention layers that are 1x1 convolutions become linear ones."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        words = re.fullmatch(r"(.*\.attentions\.\d+\.)(\w+)\.(weight|bias)", name)
        if words and words[2] in OLD_NAMES:
            name = f"{words[1]}{OLD_NAMES[words[2]]}.{words[3]}"
        found[name] = tensor.flatten(1) if ".attentions." in name and tensor.ndim == 4 else tensor
    return found


class _Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        inputs = (widths[0], *widths[:-1])
        self.down_blocks = nn.ModuleList(
            _Level(before, width, config.layers_per_block, groups, _Halve(width) if level < len(widths) - 1 else None)
            for level, (before, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.mid_block = _Middle(widths[-1], groups, config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Maps) -> Other:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class _Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _Middle(widths[0], groups, config.mid_block_add_attention)
        inputs = (widths[0], *widths[:-1])
        self.up_blocks = nn.ModuleList(
            _Level(
                before, width, config.layers_per_block + 1, groups, _Double(width) if level < len(widths) - 1 else None
            )
            for level, (before, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Maps) -> Other:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class _Level(nn.Module):
    """Residual blocks at one size, and the way to the next one."""

    def __init__(self, inputs: int, width: int, layers: int, groups: int, resize: "_Halve | _Double | None") -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            _Residual(inputs if layer == 0 else width, width, groups) for layer in range(layers)
        )
        name = "downsamplers" if isinstance(resize, _Halve) else "upsamplers"
        self.resize: Any = [resize] if resize else []  # a list, so that the module is named as in the files alone
        if resize:
            self.add_module(name, nn.ModuleList([resize]))

    def forward(self, x: Maps) -> Other:
        for layer in (*self.resnets, *self.resize):
            x = layer(x)
        return x


class _Halve(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Maps) -> Other:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only


class _Double(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Maps) -> Other:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Residual(nn.Module):
    def __init__(self, inputs: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=EPS)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, eps=EPS)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()

    def forward(self, x: Maps) -> Other:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h


class _Middle(nn.Module):
    def __init__(self, width: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(width, width, groups) for _ in range(2))
        self.attentions = nn.ModuleList(_Attention(width, groups) for _ in range(attention))

    def forward(self, x: Maps) -> Other:
        for layer in (self.resnets[0], *self.attentions, self.resnets[1]):
            x = layer(x)
        return x


class _Attention(nn.Module):
    """Every place attends to all places, with one head."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Maps) -> Other:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(tokens).unsqueeze(1) for layer in (self.to_q, self.to_k, self.to_v))
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + self.to_out[0](attended).transpose(1, 2).unflatten(2, x.shape[2:])
