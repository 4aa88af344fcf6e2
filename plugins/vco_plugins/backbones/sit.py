"""SiT, the transformer of latent diffusion that predicts velocities, with the streams that REG and ReDi add to it."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vco.api import (
    FEATURES,
    IMAGE,
    Backbone,
    BackboneSetting,
    Condition,
    Denoised,
    PublishedWeights,
    Streams,
    StreamSpec,
    Tap,
    Times,
    UserError,
)
from vco_plugins.jit_config import patch_grid
from vco_plugins.layers import (
    CLASS_TOKEN,
    Block,
    ClassToken,
    Conditioning,
    GapEmbed,
    Head,
    Tokens,
    sincos_2d,
    told_together,
    unpatchify,
)
from vco_plugins.published_sit import recognise
from vco_plugins.sit_config import PublishedSiTConfig


class SiT(Backbone):
    """The transformer of DiT and SiT, which predicts the velocity of its streams [SiT; REPA; ReDi; REG].

    Patches of the image stream, usually latents, become tokens of a ViT with fixed position embeddings, adaLN-Zero by
    the sum of time and label, LayerNorm without weights and a GELU MLP. Its velocity is compared with clean - noise as
    it is: there is no denominator 1 - t, and no clamp.

    A stream "features" on the image stream's own grid becomes more channels of the patches [ReDi]; an adapter makes one
    with --adapter.grid image. A stream "class_token" becomes one more token in front of the patches [REG]. All streams
    have the image's time.

    S has 33 M parameters, B 131 M, L 458 M, XL 675 M.

    Raises:
        UserError: If the patch does not divide the image stream, or the features do not lie on its grid; from `forward`
            if a class token meets times of tokens.

    Source: SiT (arXiv 2401.08740); REPA (arXiv 2410.06940), ReDi (arXiv 2504.16064), REG (arXiv 2507.01467).
    """

    streams: ClassVar[tuple[str, ...]] = (IMAGE,)
    optional_streams: ClassVar[tuple[str, ...]] = (FEATURES, CLASS_TOKEN)
    takes_idle_streams: ClassVar[bool] = False
    supports_until: ClassVar[bool] = True
    supports_token_times: ClassVar[bool] = True

    positions: Tensor

    @attrs.frozen(kw_only=True)
    class Config(PublishedSiTConfig):
        """What a user may set."""

    def __init__(self, config: Config, setting: BackboneSetting) -> None:
        super().__init__()
        self.config, self.patch = config, config.patch
        size, streams = config.resolved, setting.streams
        self.depth, self.width = size.depth, size.width
        self.grid = patch_grid(streams[IMAGE], self.patch)
        channels, height, width = streams[IMAGE].shape
        self.maps = (height, width)
        self.channels = {IMAGE: channels}
        if FEATURES in streams:
            _require_same_places(streams[FEATURES], streams[IMAGE])
            self.channels[FEATURES] = streams[FEATURES].shape[-1]
        inputs = sum(self.channels.values())

        self.conditioning = Conditioning(self.width, setting.num_classes, 0)
        self.embed = nn.Conv2d(inputs, self.width, kernel_size=self.patch, stride=self.patch)
        nn.init.xavier_uniform_(self.embed.weight.view(self.width, -1))
        nn.init.constant_(self.embed.get_parameter("bias"), 0.0)
        entangled = CLASS_TOKEN in streams
        table = F.pad(sincos_2d(self.grid, self.width), (0, 0, int(entangled), 0))  # a class token has no place
        self.register_buffer("positions", table, persistent=False)
        self.blocks = nn.ModuleList(
            Block(self.width, size.heads, config.mlp_ratio, plain=True) for _ in range(self.depth)
        )
        self.head = Head(self.width, (1 + config.spare_outputs) * inputs * self.patch**2, plain=True)
        self.class_token = ClassToken(self.width, self.width, _class_width(streams[CLASS_TOKEN])) if entangled else None
        # made last, so that the other weights of a seed are those of a network without it
        self.gap = GapEmbed(self.width) if setting.until else None

    def forward(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        t = times[IMAGE]
        if self.class_token is not None and t.ndim == 2:
            raise UserError("backbone sit takes no times per token beside a class token, which has no place")
        to_noise = self.config.direction == "noise"
        c, _ = self.conditioning(1 - t if to_noise else t, condition.labels)
        if self.gap is not None:
            c = told_together(c, self.gap(t, condition.until.get(IMAGE)))
        x = self._embedded(noisy)
        patches = self.grid[0] * self.grid[1]
        positions = torch.arange(patches, device=x.device)
        tapped: dict[int, Tap] = {}
        for number, block in enumerate(self.blocks):
            x = block(x, c)
            if number + 1 in taps:
                front = {CLASS_TOKEN: x[:, :1]} if self.class_token is not None else {}
                tapped[number + 1] = Tap(tokens=x[:, -patches:], positions=positions, others=front)
        found = self._parted(self.head(x[:, -patches:], c))
        if self.class_token is not None:
            found[CLASS_TOKEN] = self.class_token.read(x[:, :1], self.head, c)
        velocity = {name: (-v if to_noise else v).to(noisy[name].dtype) for name, v in found.items()}
        return Denoised(velocity=velocity, taps=tapped)

    def block_modules(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def from_published(self, weights: PublishedWeights) -> Mapping[str, str]:
        return recognise(weights, self.config)

    def _embedded(self, noisy: Streams) -> Tokens:
        """All tokens, told their positions; features are channels of the patches."""
        maps = noisy[IMAGE]
        if FEATURES in self.channels:
            features = noisy[FEATURES].to(maps.dtype).transpose(1, 2).unflatten(2, self.maps)
            maps = torch.cat([maps, features], dim=1)
        x = self.embed(maps.to(self.embed.weight.dtype)).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.embed(noisy[CLASS_TOKEN]).to(x.dtype), x], dim=1)
        return x + self.positions

    def _parted(self, outputs: Tokens) -> Streams:
        """The streams that the patches' outputs belong to."""
        maps = unpatchify(outputs, self.grid, self.patch)[:, : sum(self.channels.values())]
        found = dict(zip(self.channels, maps.split(list(self.channels.values()), dim=1), strict=True))
        if FEATURES in found:
            found[FEATURES] = found[FEATURES].flatten(2).transpose(1, 2)
        return found


def _require_same_places(features: StreamSpec, image: StreamSpec) -> None:
    """Raises `UserError` if the features' tokens are not at the places of the image stream."""
    if features.grid != image.shape[1:]:
        raise UserError(
            f"backbone sit takes features as channels of the image stream, whose grid is {image.shape[1:]}, and these "
            f"have the grid {features.grid}: set --adapter.grid image, which brings them there (adapters pca, coredi)"
        )


def _class_width(spec: StreamSpec) -> int:
    if spec.shape[0] != 1:
        raise UserError(f"A class token is one token an image, but the adapter makes {spec.shape[0]}")
    return spec.shape[-1]
