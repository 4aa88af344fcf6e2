"""The decoder of a representation autoencoder (RAE): a ViT from an encoder's tokens to pixels."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge, in_
from jaxtyping import Float
from torch import Tensor, nn

EPS: Final = 1e-12
"""Of every layer norm."""


@attrs.frozen(kw_only=True)
class RAEConfig:
    """What config.json says of an `AutoencoderRAE`; what a file leaves out has the value that diffusers gives it."""

    encoder_type: str = "dinov2"
    encoder_hidden_size: int = attrs.field(default=768, validator=ge(1))
    encoder_patch_size: int = attrs.field(default=14, validator=ge(1))
    encoder_input_size: int = attrs.field(default=224, validator=ge(1))
    """Side that images are resized to for the encoder, in pixels."""
    decoder_hidden_size: int = attrs.field(default=512, validator=ge(1))
    decoder_num_hidden_layers: int = attrs.field(default=8, validator=ge(1))
    decoder_num_attention_heads: int = attrs.field(default=16, validator=ge(1))
    decoder_intermediate_size: int = attrs.field(default=2048, validator=ge(1))
    patch_size: int = attrs.field(default=16, validator=ge(1))
    """Side of the square of pixels that the decoder makes of one token."""
    num_channels: int = attrs.field(default=3, validator=in_((3,)))
    scaling_factor: float = 1.0

    @classmethod
    def of_file(cls, content: Mapping[str, Any]) -> "RAEConfig":
        """The settings in a config.json.

        Raises:
            ValueError: if the file is one of another network, or its encoder is none that is read.
            TypeError: likewise.
        """
        kind = content["_class_name"]
        if kind != "AutoencoderRAE":
            raise ValueError(f"it is one of a network {kind}, and only AutoencoderRAE is read")
        if (encoder := content.get("encoder_type", "dinov2")) != "dinov2":
            raise ValueError(f"its encoder is a {encoder}, and only a dinov2 is read")
        return cls(**{name: content[name] for name in attrs.fields_dict(cls) if name in content})

    @property
    def side(self) -> int:
        """Rows and columns of the tokens."""
        return self.encoder_input_size // self.encoder_patch_size


class TokenDecoder(nn.Module):
    """Patch tokens to pixels, by a ViT with a learned class token that is dropped at the end.

    Names of parameters are those of diffusers, so that its files can be read.

    Source: RAE (Zheng et al., arXiv 2510.11690), with the layers of MAE's decoder (arXiv 2111.06377).
    """

    def __init__(self, config: RAEConfig) -> None:
        super().__init__()
        width, self.side, self.patch = config.decoder_hidden_size, config.side, config.patch_size
        self.decoder_embed = nn.Linear(config.encoder_hidden_size, width)
        self.trainable_cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, self.side**2 + 1, width))
        self.decoder_layers = nn.ModuleList(_Layer(config) for _ in range(config.decoder_num_hidden_layers))
        self.decoder_norm = nn.LayerNorm(width, EPS)
        self.decoder_pred = nn.Linear(width, self.patch**2 * config.num_channels)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b c h w"]:
        """Pixels, normalised as the encoder wants them."""
        x = self.decoder_embed(tokens)
        x = torch.cat([self.trainable_cls_token.expand(len(x), -1, -1), x], dim=1) + self.decoder_pos_embed
        for layer in self.decoder_layers:
            x = layer(x)
        patches = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        # each patch is flattened as (row, column, channel)
        split = patches.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, (self.side, self.side))
        return split.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class _Layer(nn.Module):
    """One block: attention and an MLP, each after its norm and beside a residual."""

    def __init__(self, config: RAEConfig) -> None:
        super().__init__()
        width, inner = config.decoder_hidden_size, config.decoder_intermediate_size
        self.layernorm_before = nn.LayerNorm(width, EPS)
        self.attention = _Attention(width, config.decoder_num_attention_heads)
        self.layernorm_after = nn.LayerNorm(width, EPS)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(x))))


class _Attention(nn.Module):
    """Attention of all tokens to all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
