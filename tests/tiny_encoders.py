"""Tiny random encoders saved in the real formats, and the libraries' own forward passes on them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vco.api import FeatureSetting
from vco_plugins.encoders import Encoder
from vco_plugins.features.clip import CLIP
from vco_plugins.features.dinov2 import DINOv2
from vco_plugins.features.dinov3 import DINOv3
from vco_plugins.features.mae import MAE
from vco_plugins.features.siglip import SigLIP
from vco_plugins.features.siglip2 import SigLIP2
from vco_plugins.features.timm_vit import TimmViT
from vco_plugins.pretrained import Architecture

WIDTH, DEPTH, PATCH, SIDE = 32, 3, 8, 32
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "patch_size": PATCH,
    "image_size": SIDE,
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
ODD = ((0.1, 0.2, 0.3), (0.9, 0.8, 0.7))


@dataclass(frozen=True)
class Seen:
    """What a library says about normalised pixels."""

    hidden: list[Tensor]
    """Tokens after each block, without final norm; class and register tokens in front."""
    tokens: Tensor
    """Patch tokens of the stock output, after the final norm."""
    pooled: Tensor


@dataclass(frozen=True)
class Case:
    """One family of encoders."""

    id: str
    source: type[Any]
    save: Callable[[Path], Any]
    """Writes a tiny random network."""
    library: Callable[[Path, int], Callable[[Tensor], Seen]]
    """(folder, resolution) -> the library's own forward pass."""
    statistics: Any
    prefix: int
    lost: str
    """A tensor of the file."""
    hub_id: str
    known: Architecture
    eps: float = 1e-6
    """Of the final norm."""
    mode: tuple[str, bool] = ("bicubic", False)
    weights: str = "model.safetensors"
    config: str = "config.json"

    def load(self, folder: Path | str, *, resolution: int = SIDE, shape: Any = None, **options: Any) -> Encoder:
        """The source with weights."""
        source = self.construct(folder, resolution=resolution, shape=shape, **options)
        source.load()
        return source

    def construct(self, folder: Path | str, *, resolution: int = SIDE, shape: Any = None, **options: Any) -> Encoder:
        """The source without weights; by default for images of its resolution."""
        config = self.source.Config(weights=str(folder), resolution=resolution, **options)
        return self.source(config, FeatureSetting(image_shape=shape or (3, resolution, resolution)))

    def normalised(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as the network was trained on them."""
        mean, std = (torch.tensor(values)[:, None, None] for values in self.statistics)
        return (images / 2 + 0.5 - mean) / std

    def put_in_cache(self, folder: Path, cache: Path, hub_id: str | None = None) -> None:
        """Copies the files to where a download of the hub id would have put them."""
        repository = cache / f"models--{(hub_id or self.hub_id).replace('/', '--')}"
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        for name in (self.config, self.weights):
            (snapshot / name).write_bytes((folder / name).read_bytes())


def randomised(model: nn.Module, std: float = 0.15) -> Any:
    """The model with all weights random, norms included."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


def of_transformers(
    model: str, config: str, *, reference: str = "", prefix: int, **options: Any
) -> tuple[Callable[[Path], Any], Callable[[Path, int], Callable[[Tensor], Seen]]]:
    """Saving and running a vision model of transformers; `reference` is the class that runs it."""
    interpolate = {} if "DINO" in model or "Dino" in model else {"interpolate_pos_encoding": True}

    def save(folder: Path) -> None:
        import transformers

        sizes = getattr(transformers, config)(**SIZES, **options)
        randomised(getattr(transformers, model)(sizes)).save_pretrained(folder)

    def library(folder: Path, resolution: int) -> Callable[[Tensor], Seen]:
        import transformers

        extra = {"add_pooling_layer": False} if reference == "ViTModel" else {}
        network = getattr(transformers, reference or model).from_pretrained(folder, **extra).eval()

        def run(pixels: Tensor) -> Seen:
            out = network(pixels, output_hidden_states=True, **interpolate)
            tokens = out.last_hidden_state
            pooled = tokens[:, 0] if reference == "ViTModel" else out.pooler_output
            return Seen(list(out.hidden_states[1:]), tokens[:, prefix:], pooled)

        return run

    return save, library


def save_siglip(folder: Path) -> None:
    """Both towers in one file, as the hub has them."""
    import transformers

    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.SiglipConfig(vision_config=SIZES, text_config={**text, "vocab_size": 9})
    randomised(transformers.SiglipModel(config)).save_pretrained(folder)


def save_mae(folder: Path) -> None:
    """Encoder and decoder in one file, as the hub has them."""
    import transformers

    decoder: dict[str, Any] = {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
    }
    config = transformers.ViTMAEConfig(**SIZES, **decoder, decoder_intermediate_size=16)
    randomised(transformers.ViTMAEForPreTraining(config)).save_pretrained(folder)


def save_naflex(folder: Path) -> None:
    """The NaFlex kind has a table of num_patches positions instead of an image size."""
    import transformers

    sizes = {key: value for key, value in SIZES.items() if key != "image_size"}
    config = transformers.Siglip2VisionConfig(**sizes, num_patches=(SIDE // PATCH) ** 2)
    randomised(transformers.Siglip2VisionModel(config)).save_pretrained(folder)


def naflex_library(folder: Path, resolution: int) -> Callable[[Tensor], Seen]:
    """NaFlex with the library's own way of cutting patches."""
    import transformers
    from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

    network: Any = transformers.Siglip2VisionModel.from_pretrained(folder).eval()

    def run(pixels: Tensor) -> Seen:
        patches = torch.stack([convert_image_to_patches(image, PATCH) for image in pixels])
        shapes = torch.full((len(pixels), 2), resolution // PATCH)
        mask = torch.ones(patches.shape[:2], dtype=torch.long)
        out = network(patches, pixel_attention_mask=mask, spatial_shapes=shapes, output_hidden_states=True)
        return Seen(list(out.hidden_states[1:]), out.last_hidden_state, out.pooler_output)

    return run


CLIP_MODEL: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "layers": DEPTH, "width": WIDTH, "head_width": 16, "patch_size": PATCH},
    "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
}


def save_clip(folder: Path) -> None:
    """A CLIP as open_clip's push_to_hf_hub writes it."""
    import open_clip

    model = randomised(open_clip.CLIP(**CLIP_MODEL))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / CLIP_CASE.weights)
    content = {"model_cfg": CLIP_MODEL, "preprocess_cfg": dict(zip(("mean", "std"), OPENAI, strict=True))}
    (folder / CLIP_CASE.config).write_text(json.dumps(content))


def clip_library(folder: Path, resolution: int) -> Callable[[Tensor], Seen]:
    """open-clip's forward_intermediates."""
    import open_clip

    visual: Any = open_clip.create_model(f"local-dir:{folder}", force_image_size=resolution).eval().visual

    def run(pixels: Tensor) -> Seen:
        options: dict[str, Any] = {"indices": list(range(DEPTH)), "output_fmt": "NLC", "output_extra_tokens": True}
        raw = visual.forward_intermediates(pixels, **options)
        normed = visual.forward_intermediates(pixels, normalize_intermediates=True, **options)
        pairs = zip(raw["image_intermediates_prefix"], raw["image_intermediates"], strict=True)
        hidden = [torch.cat(pair, dim=1) for pair in pairs]
        return Seen(hidden, normed["image_intermediates"][-1], raw["image_features"])

    return run


def of_timm(name: str, **options: Any) -> tuple[Callable[[Path], Any], Callable[[Path, int], Callable[[Tensor], Seen]]]:
    """Saving and running a model of timm."""
    sizes: dict[str, Any] = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "img_size": SIDE, **options}

    def save(folder: Path) -> None:
        import timm
        from timm.models import save_for_hf

        model = randomised(timm.create_model(name, **sizes))
        save_for_hf(model, str(folder), model_args=sizes, safe_serialization=True)

    def library(folder: Path, resolution: int) -> Callable[[Tensor], Seen]:
        import timm

        network: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=resolution).eval()

        def run(pixels: Tensor) -> Seen:
            options = {"indices": list(range(DEPTH)), "output_fmt": "NLC", "intermediates_only": True, "norm": False}
            found = network.forward_intermediates(pixels, return_prefix_tokens=True, **options)
            # without prefix tokens timm returns bare tensors instead of pairs
            hidden = [x if isinstance(x, Tensor) else torch.cat([x[1], x[0]], dim=1) for x in found]
            tokens = network.forward_features(pixels)
            pooled = network.forward_head(tokens, pre_logits=True)
            return Seen(hidden, tokens[:, network.num_prefix_tokens :], pooled)

        return run

    return save, library


_REGISTERS = "dinov2_with_registers"
CLIP_CASE = Case(
    "clip", CLIP, save_clip, clip_library, OPENAI, 1, "visual.transformer.resblocks.1.mlp.c_fc.weight",
    "timm/vit_large_patch14_clip_224.openai", Architecture("clip", 14, 1024, 24),
    eps=1e-5, weights="open_clip_model.safetensors", config="open_clip_config.json",
)  # fmt: skip
TIMM_CASE = Case(
    "timm", TimmViT, *of_timm("vit_small_patch8_224.dino", patch_size=PATCH, reg_tokens=2), IMAGENET, 3,
    "blocks.1.mlp.fc1.weight", "timm/vit_base_patch16_224.mae", Architecture("vit_base_patch16_224", 16, 768, 12),
)  # fmt: skip
CASES = [
    Case(
        "dinov2", DINOv2,
        *of_transformers("Dinov2Model", "Dinov2Config", prefix=1, mlp_ratio=2),
        IMAGENET, 1, "encoder.layer.1.mlp.fc1.weight",
        "facebook/dinov2-large", Architecture("dinov2", 14, 1024, 24),
    ),
    Case(
        "dinov2-registers", DINOv2,
        *of_transformers(
            "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", prefix=5, num_register_tokens=4, mlp_ratio=2
        ),
        IMAGENET, 5, "encoder.layer.1.mlp.fc1.weight",
        "facebook/dinov2-with-registers-giant", Architecture(_REGISTERS, 14, 1536, 40),
    ),
    Case(
        "dinov3", DINOv3,
        *of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", prefix=5, num_register_tokens=4),
        IMAGENET, 5, "layer.1.mlp.up_proj.weight",
        "facebook/dinov3-vith16plus-pretrain-lvd1689m", Architecture("dinov3_vit", 16, 1280, 32),
        eps=1e-5, mode=("bilinear", True),
    ),
    Case(
        "siglip", SigLIP, save_siglip, of_transformers("SiglipVisionModel", "", prefix=0)[1],
        HALF, 0, "vision_model.encoder.layers.1.mlp.fc1.weight",
        "google/siglip-so400m-patch14-384", Architecture("siglip", 14, 1152, 27),
    ),
    Case(
        "siglip2", SigLIP2, save_siglip, of_transformers("SiglipVisionModel", "", prefix=0)[1],
        HALF, 0, "vision_model.encoder.layers.1.mlp.fc1.weight",
        "google/siglip2-base-patch16-256", Architecture("siglip", 16, 768, 12),
    ),
    Case(
        "siglip2-naflex", SigLIP2, save_naflex, naflex_library,
        HALF, 0, "encoder.layers.1.mlp.fc1.weight",
        "google/siglip2-so400m-patch16-naflex", Architecture("siglip2", 16, 1152, 27),
    ),
    Case(
        "mae", MAE, save_mae,
        # the library's unmasked twin of its MAE, which shuffles nothing
        of_transformers("", "", reference="ViTModel", prefix=1)[1],
        IMAGENET, 1, "vit.encoder.layer.1.intermediate.dense.weight",
        "facebook/vit-mae-huge", Architecture("vit_mae", 14, 1280, 32), eps=1e-12,
    ),
    CLIP_CASE,
    TIMM_CASE,
]  # fmt: skip
TIMM_FAMILIES = [
    replace(TIMM_CASE, id=f"timm-{name}", save=pair[0], library=pair[1], statistics=statistics, prefix=prefix, eps=eps)
    for name, pair, statistics, prefix, eps in [
        ("siglip", of_timm("vit_base_patch16_siglip_224", patch_size=PATCH), HALF, 0, 1e-6),
        ("deit-distilled", of_timm("deit_small_distilled_patch16_224", patch_size=PATCH), IMAGENET, 2, 1e-6),
        ("relpos", of_timm("vit_relpos_base_patch16_cls_224", patch_size=PATCH), HALF, 1, 1e-6),
        ("beit", of_timm("beit_base_patch16_224", patch_size=PATCH), HALF, 1, 1e-6),
        ("eva-dinov3", of_timm("vit_small_patch16_dinov3", patch_size=PATCH), IMAGENET, 5, 1e-5),
        ("eva-pe", of_timm("vit_pe_core_tiny_patch16_384", patch_size=PATCH), HALF, 1, 1e-5),
    ]
]
