"""The latents of a published autoencoder as the stream that is denoised."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import attrs
import torch
from attrs.validators import ge, in_, instance_of
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from vco.api import Codec, CodecSetting, StreamSpec, UserError
from vco_plugins.autoencoder import Autoencoder, AutoencoderConfig, current_names
from vco_plugins.hub_folder import HubFolder, read_settings
from vco_plugins.pretrained import readable

CONFIG: Final = "config.json"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
SD_VAE: Final = AutoencoderConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
KNOWN: Final = {"stabilityai/sd-vae-ft-mse": SD_VAE, "stabilityai/sd-vae-ft-ema": SD_VAE}
"""Hub ids whose config.json need not be there for a dry run."""
BUNDLED: Final = {"digits": Path(__file__).with_name("digits_vae")}
"""Name of an autoencoder that ships with the package -> its folder (benchmarks/train_digits_vae.py)."""


class VAE(Codec):
    """Latents of an autoencoder in the format of diffusers (`AutoencoderKL`), such as Stable Diffusion's.

    The stream is (z - mean) * scale for a draw z of the posterior, with the mean and scale of each channel: those that
    config.json has (`shift_factor`, `scaling_factor`, `latents_mean`, `latents_std`), or those of `statistics`. It is
    computed in `precision`, also under autocast, and `chunk` images at a time where no gradient is asked for.

    Raises:
        UserError: If the network reads other channels than the images have, or does not divide their size.

    Source: Rombach et al. (arXiv 2112.10752); the posterior is sampled anew in every visit of an image, as in SiT
        (arXiv 2401.08740) and REPA (arXiv 2410.06940).
    """

    @attrs.frozen(kw_only=True)
    class Config(Codec.Config):
        """What a user may set."""

        weights: str = attrs.field(
            default="stabilityai/sd-vae-ft-mse", validator=instance_of(str), metadata={"location": True}
        )
        """Folder with config.json and diffusion_pytorch_model.safetensors, or a hub id; "digits" ships with the package
        (8x8 gray pixels to 4x4 places of 4 channels)."""
        posterior: Literal["sample", "mode"] = attrs.field(default="sample", validator=in_(("sample", "mode")))
        """What stands for an image in training: a fresh draw of its posterior in every visit, or its mean."""
        statistics: str = attrs.field(default="", validator=instance_of(str), metadata={"location": True})
        """JSON file {"mean": [...], "std": [...]} with a number for each latent channel, which are then standardised;
        by default as config.json says."""
        precision: Literal["float32", "bfloat16"] = attrs.field(
            default="float32", validator=in_(("float32", "bfloat16"))
        )
        """What encoder and decoder compute in; also where training is in mixed precision."""
        chunk: int = attrs.field(default=16, validator=ge(1), metadata={"sampling": True})
        """Images that are encoded or decoded at a time, at least 1; fewer take less memory."""

    config: Config
    mean: Tensor
    scale: Tensor

    def __init__(self, config: Config, setting: CodecSetting) -> None:
        super().__init__()
        self.config = config
        self.files = HubFolder(
            given=config.weights, usual=type(config)().weights, files=(CONFIG, WEIGHTS), bundled=BUNDLED
        )
        self.network_config = known = self._described()
        channels, height, width = setting.image_shape
        if known.in_channels != channels or known.out_channels != channels:
            raise UserError(
                f"the autoencoder {config.weights} reads images of {known.in_channels} channels, and these have "
                f"{channels}: choose other data, or --.weights of an autoencoder for them"
            )
        factor = known.factor
        if height % factor or width % factor:
            raise UserError(
                f"the autoencoder {config.weights} makes one latent of {factor}x{factor} pixels, which does not divide "
                f"images of {height}x{width}: choose a size that it divides, such as --data.size "
                f"{max(1, round(height / factor)) * factor}"
            )
        shape = (known.latent_channels, height // factor, width // factor)
        self.spec = StreamSpec(shape=shape, noise_scale=config.noise_scale)
        self.noise_shape = shape if config.posterior == "sample" else None
        self.moments_shape = (2 * shape[0], *shape[1:])
        mean, scale = self._normalisation()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)

    def check(self) -> None:
        self.files.check()

    def load(self) -> None:
        folder = self.files.fetch()
        if self._described() != self.network_config:
            raise UserError(
                f"{folder} holds another autoencoder than {self.config.weights} is known to be; give --.weights "
                f"{folder}, which reads its sizes."
            )
        with torch.device("meta"):
            network = Autoencoder(self.network_config)
        with readable(folder):
            weights = current_names(load_file(folder / WEIGHTS))
        wanted = network.state_dict()
        self.files.require_fitting(folder, weights, wanted)
        dtype = getattr(torch, self.config.precision)
        network.load_state_dict({name: weights[name].to(dtype) for name in wanted}, assign=True)
        self.network = network.requires_grad_(False).eval()

    def posterior(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Mean and standard deviation of the latents, float32 [b, 2 c, h, w], neither shifted nor scaled."""
        parts = [torch.cat(self.network.encode(part), dim=1).float() for part in self._chunks(images)]
        return torch.cat(parts)

    def draw(self, moments: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."] | None) -> Float[Tensor, "b ..."]:
        mean, std = moments.float().chunk(2, dim=1)
        z = mean if noise is None else mean + std * noise
        return (z - self.mean) * self.scale

    def encode(self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b ..."] | None) -> Float[Tensor, "b ..."]:
        with torch.autocast(images.device.type, enabled=False):
            return self.draw(self.posterior(images), noise).to(images.dtype)

    def decode(self, stream: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        with torch.autocast(stream.device.type, enabled=False):
            latents = stream.float() / self.scale + self.mean
            parts = [self.network.decode(part) for part in self._chunks(latents)]
            return torch.cat(parts).to(stream.dtype)

    def block_modules(self) -> Sequence[nn.Module]:
        coder, decoder = self.network.encoder, self.network.decoder
        return [*coder.down_blocks, coder.mid_block, decoder.mid_block, *decoder.up_blocks]

    def _chunks(self, x: Tensor) -> Sequence[Tensor]:
        """Some rows at a time, in the precision that is computed in; all of them where a gradient is asked for."""
        x = x.to(getattr(torch, self.config.precision))
        return (x,) if torch.is_grad_enabled() and x.requires_grad else x.split(self.config.chunk)

    def _described(self) -> AutoencoderConfig:
        """The sizes of the network, from its file or from its name."""
        return self.files.described(AutoencoderConfig.of_file, KNOWN)

    def _normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and scale of each latent channel."""
        config, channels = self.network_config, self.network_config.latent_channels
        if not self.config.statistics:
            return config.mean, config.scale
        path = Path(self.config.statistics)
        mean, std = read_settings(
            path,
            "file of statistics (--.statistics)",
            lambda content: [[float(each) for each in content[name]] for name in ("mean", "std")],
        )
        if not (len(mean) == len(std) == channels) or min(std) <= 0:
            raise UserError(
                f"{path} (from --.statistics) needs {channels} numbers under mean, and as many above 0 under std, one "
                "for each latent channel"
            )
        return mean, [1 / each for each in std]
