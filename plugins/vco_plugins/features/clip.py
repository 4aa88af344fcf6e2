"""CLIP through open-clip: the vision tower."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs.validators import ge, instance_of
from jaxtyping import Float
from torch import Tensor

from vco.api import UserError
from vco_plugins.encoders import Encoder, EncoderConfig, Network, Seen, Statistics
from vco_plugins.pretrained import Architecture, read_json, readable, unknown

OPENAI = Statistics(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
KNOWN = {
    "timm/vit_base_patch32_clip_224.openai": Architecture("clip", 32, 768, 12),
    "timm/vit_base_patch16_clip_224.openai": Architecture("clip", 16, 768, 12),
    "timm/vit_large_patch14_clip_224.openai": Architecture("clip", 14, 1024, 24),
    "timm/vit_large_patch14_clip_336.openai": Architecture("clip", 14, 1024, 24),
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": Architecture("clip", 16, 768, 12),
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": Architecture("clip", 14, 1024, 24),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": Architecture("clip", 14, 1280, 32),
}
BUILT_IN = {"timm/vit_large_patch14_clip_224.openai": "ViT-L-14-quickgelu"}  # open-clip's own name of the default


class CLIP(Encoder):
    """CLIP's vision tower through open-clip, OpenAI's or anybody's (Radford et al. 2021, arXiv 2103.00020).

    Pixel statistics and activation are those of the checkpoint's own open_clip_config.json. `forward`: last tokens
    after a LayerNorm without affine part (--features.norm none is REPA's target: before ln_post and projection);
    `pooled` is the class token of the same. `perceive`: tokens after ln_post; `pooled` is the image embedding. The
    position table is resampled for other sizes.
    """

    @attrs.frozen(kw_only=True)
    class Config(EncoderConfig):
        """What a user may set."""

        weights: str = attrs.field(
            default="timm/vit_large_patch14_clip_224.openai", validator=instance_of(str), metadata={"location": True}
        )
        """Folder with open_clip_config.json and open_clip_model.safetensors, or a hub id in the local cache."""
        resolution: int = attrs.field(default=224, validator=ge(1))
        """Side that images are resized to, in pixels; a multiple of the patch size (14, 16 or 32)."""

    name: ClassVar[str] = "clip"
    statistics: ClassVar[Statistics] = OPENAI
    config_file: ClassVar[str] = "open_clip_config.json"
    weight_files: ClassVar[tuple[str, ...]] = ("open_clip_model.safetensors",)

    def describe(self, folder: Path | None) -> Architecture:
        weights = self.weights
        if folder is None:
            if weights in KNOWN:
                return KNOWN[weights]
            raise unknown(weights, self.config_file, KNOWN)

        def reader(content: Any) -> Architecture:
            vision, text = content["model_cfg"]["vision_cfg"], content["model_cfg"]["text_cfg"]
            foreign = {"timm_model_name", "attentional_pool", "final_ln_after_pool"} & {
                key for key in vision if vision[key]
            }
            if foreign or not isinstance(vision["layers"], int):
                raise UserError(
                    f"{weights} (from --.weights) has another vision tower than CLIP's own ViT; try "
                    "the sources timm or siglip with its weights."
                )
            if "hf_model_name" in text:
                raise UserError(
                    f"{weights} (from --.weights) has a text tower ({text['hf_model_name']}) that open-clip "
                    "would fetch from the network; take a CLIP with its own."
                )
            return Architecture("clip", int(vision["patch_size"]), int(vision["width"]), vision["layers"])

        return read_json(folder / self.config_file, reader)

    def read(self, folder: Path) -> Any:
        import open_clip

        with readable(folder):  # strict: all tensors of both towers must be there
            model: Any = open_clip.create_model(f"local-dir:{folder}", force_image_size=self.resolution)
        return model.visual

    def initial(self, folder: Path | None) -> Any:
        import open_clip

        if folder is None:
            if self.weights not in BUILT_IN:
                raise UserError(f"initial weights for {self.weights} need its {self.config_file}; give random:FOLDER.")
            sizes: dict[str, Any] = {**(open_clip.get_model_config(BUILT_IN[self.weights]) or {})}
        else:
            sizes = read_json(folder / self.config_file, lambda content: dict(content["model_cfg"]))
        sizes["vision_cfg"] = {**sizes["vision_cfg"], "image_size": self.resolution}
        return open_clip.CLIP(**sizes).visual

    def parts(self, module: Any) -> Network:
        return Network(module=module, blocks=module.transformer.resblocks, norm=module.ln_post, prefix=1)

    def run(self, pixels: Float[Tensor, "b 3 r r"]) -> Seen:
        return Seen(self.module(pixels))

    def pixels(self, folder: Path) -> Statistics:
        def reader(content: Any) -> Statistics:
            said = content.get("preprocess_cfg", {})
            return Statistics(*(tuple(said.get(key, getattr(OPENAI, key))) for key in Statistics._fields))

        return read_json(folder / self.config_file, reader)
