"""The tokens of a frozen encoder as the stream that is denoised, and a trained decoder that makes images of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge, instance_of
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from vco.api import Codec, CodecSetting, StreamSpec, UserError
from vco_plugins.hub_folder import HubFolder, read_settings
from vco_plugins.pretrained import pretrained, readable
from vco_plugins.token_decoder import RAEConfig, TokenDecoder

CONFIG: Final = "config.json"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
ENCODER_WEIGHTS: Final = "model.safetensors"
SIZES: Final = {"small": 384, "base": 768, "large": 1024}
"""Sizes of DINOv2 and the widths of their tokens."""
ENCODERS: Final = {width: f"facebook/dinov2-with-registers-{size}" for size, width in SIZES.items()}
"""Width of the tokens -> hub id of the encoder."""
XL: Final[dict[str, Any]] = {
    "decoder_hidden_size": 1152, "decoder_num_hidden_layers": 28, "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 4096,
}  # fmt: skip
KNOWN: Final = {
    f"nyu-visionx/RAE-dinov2-wReg-{size}-ViTXL-n08": RAEConfig(encoder_hidden_size=width, **XL)
    for size, width in SIZES.items()
}
"""Hub ids whose config.json need not be there for a dry run."""
EPS: Final = 1e-5
"""Added to the standard deviations of the tokens, as diffusers does."""


class RAE(Codec):
    """Tokens of a frozen DINOv2, and a trained decoder: representation autoencoders in the format of diffusers.

    The stream is (tokens - mean) / std, of each channel at each place, with the statistics of the weights; the tokens
    are those after the last norm without its affine part. Nothing is drawn. Both networks compute in float32, also
    under autocast, and `chunk` images at a time where no gradient is asked for. Not compared with the published code.

    Raises:
        UserError: If images have not the size that the decoder makes.

    Source: Diffusion Transformers with Representation Autoencoders (Zheng et al., arXiv 2510.11690).
    """

    @attrs.frozen(kw_only=True)
    class Config(Codec.Config):
        """What a user may set."""

        weights: str = attrs.field(
            default="nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08",
            validator=instance_of(str),
            metadata={"location": True},
        )
        """Folder with config.json and diffusion_pytorch_model.safetensors of an `AutoencoderRAE`, or a hub id; of its
        tensors the decoder and the statistics are read."""
        encoder: str = attrs.field(default="", validator=instance_of(str), metadata={"location": True})
        """Folder with config.json and model.safetensors of the DINOv2 with registers that makes the tokens, or a hub
        id; by default facebook's of the size that `weights` asks for."""
        chunk: int = attrs.field(default=16, validator=ge(1), metadata={"sampling": True})
        """Images that are encoded or decoded at a time, at least 1; fewer take less memory."""

    config: Config
    mean: Tensor
    std: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: Config, setting: CodecSetting) -> None:
        super().__init__()
        self.config = config
        self.files = HubFolder(given=config.weights, usual=type(config)().weights, files=(CONFIG, WEIGHTS))
        self.sizes = sizes = self._described()
        usual = ENCODERS.get(sizes.encoder_hidden_size, "")
        if not (config.encoder or usual):
            raise UserError(
                f"{config.weights} is made for an encoder with tokens {sizes.encoder_hidden_size} wide; say which "
                "with --.encoder"
            )
        self.encoder_files = HubFolder(
            given=config.encoder or usual, usual=usual, files=(CONFIG, ENCODER_WEIGHTS), option="--.encoder"
        )
        side = sizes.side * sizes.patch_size
        if setting.image_shape != (3, side, side):
            raise UserError(
                f"the autoencoder {config.weights} makes images of 3x{side}x{side}, and these are "
                f"{'x'.join(map(str, setting.image_shape))}: choose --data.size {side}, or other --.weights"
            )
        shape = (sizes.encoder_hidden_size, sizes.side, sizes.side)
        self.spec = StreamSpec(shape=shape, noise_scale=config.noise_scale)
        self.moments_shape = shape

    def check(self) -> None:
        missing: list[str] = []  # of both, so that one attempt tells everything
        for files in (self.files, self.encoder_files):
            try:
                files.check()
            except UserError as error:
                missing.append(str(error))
        if missing:
            raise UserError("\n".join(missing))

    def load(self) -> None:
        folder, place = self.files.fetch(), self.encoder_files.fetch()
        if self._described() != self.sizes:
            raise UserError(
                f"{folder} holds another autoencoder than {self.config.weights} is known to be; give --.weights "
                f"{folder}, which reads its sizes."
            )
        with torch.device("meta"):
            decoder = TokenDecoder(self.sizes)
        with readable(folder):
            tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
            statistics = {
                "mean": tensors["_latents_mean"],
                "std": tensors["_latents_std"],
                "pixel_mean": tensors["encoder_mean"].reshape(3, 1, 1),
                "pixel_std": tensors["encoder_std"].reshape(3, 1, 1),
            }
        for name, values in statistics.items():
            if name in ("mean", "std") and values.shape not in ((1,), self.spec.shape):
                raise UserError(
                    f"the weights in {folder} have _latents_{name} of shape {list(values.shape)}, not "
                    f"{list(self.spec.shape)}; get them anew."
                )
            self.register_buffer(name, values)
        found = {name.removeprefix("decoder."): x for name, x in tensors.items() if name.startswith("decoder.")}
        self.files.require_fitting(folder, found, decoder.state_dict())
        decoder.load_state_dict(found, assign=True)
        self.decoder = decoder.requires_grad_(False).eval()
        self.encoder = self._read_encoder(place).requires_grad_(False).eval()

    def _read_encoder(self, place: Path) -> Any:
        """The encoder in a folder, if it makes the tokens that the decoder wants."""
        kind, *found = read_settings(
            place / CONFIG,
            f"{CONFIG} of a DINOv2 with registers",
            lambda content: (content["model_type"], content["hidden_size"], content["patch_size"]),
        )
        wanted = [self.sizes.encoder_hidden_size, self.sizes.encoder_patch_size]
        if kind != "dinov2_with_registers" or found != wanted:
            raise UserError(
                f"{place} (from --.encoder) holds a {kind} with tokens {found[0]} wide of {found[1]} pixels; "
                f"{self.config.weights} wants a dinov2_with_registers, {wanted[0]} wide, of {wanted[1]} pixels"
            )
        network = pretrained("Dinov2WithRegistersModel", place)
        network.layernorm = nn.LayerNorm(wanted[0], eps=network.layernorm.eps, elementwise_affine=False)
        return network

    def posterior(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """The stream itself, float32."""
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([self._encoded(part.float()) for part in self._chunks(images)])

    def draw(self, moments: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."] | None) -> Float[Tensor, "b ..."]:
        return moments

    def encode(self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b ..."] | None) -> Float[Tensor, "b ..."]:
        return self.posterior(images).to(images.dtype)

    def decode(self, stream: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        with torch.autocast(stream.device.type, enabled=False):
            tokens = stream.float() / self.sizes.scaling_factor * (self.std + EPS) + self.mean
            pixels = torch.cat([self.decoder(part.flatten(2).transpose(1, 2)) for part in self._chunks(tokens)])
            return ((pixels * self.pixel_std + self.pixel_mean) * 2 - 1).to(stream.dtype)

    def block_modules(self) -> Sequence[nn.Module]:
        return [*self.encoder.encoder.layer, *self.decoder.decoder_layers]

    def _encoded(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        size = (self.sizes.encoder_input_size,) * 2
        pixels = images / 2 + 0.5
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False)
        seen = self.encoder((pixels - self.pixel_mean) / self.pixel_std).last_hidden_state
        tokens = seen[:, -(self.sizes.side**2) :]  # class and register tokens stand in front
        maps = tokens.transpose(1, 2).unflatten(2, (self.sizes.side, -1))
        return (maps - self.mean) / (self.std + EPS) * self.sizes.scaling_factor

    def _chunks(self, x: Tensor) -> Sequence[Tensor]:
        """Some rows at a time; all of them where a gradient is asked for."""
        return (x,) if torch.is_grad_enabled() and x.requires_grad else x.split(self.config.chunk)

    def _described(self) -> RAEConfig:
        return self.files.described(RAEConfig.of_file, KNOWN)
