"""The built-in plugins, registered through the same entry point as anybody's.

This module only names them; each class is imported when chosen.
"""

from pathlib import Path

from vco import hookimpl

vco_api = 2


@hookimpl
def vco_codecs() -> dict[str, str]:
    return {
        "pixels": "vco_plugins.codecs.pixels:Pixels",
        "rae": "vco_plugins.codecs.rae:RAE",
        "vae": "vco_plugins.codecs.vae:VAE",
    }


@hookimpl
def vco_backbones() -> dict[str, str]:
    return {
        "dino-forcing": "vco_plugins.backbones.dino_forcing:DinoForcing",
        "jit": "vco_plugins.backbones.jit:JiT",
        "jit-dual": "vco_plugins.backbones.jit_dual:JiTDual",
        "jit-joint": "vco_plugins.backbones.jit_joint:JiTJoint",
        "sit": "vco_plugins.backbones.sit:SiT",
        "sit-dual": "vco_plugins.backbones.sit_dual:SiTDual",
    }


@hookimpl
def vco_features() -> dict[str, str]:
    return {
        "digits-vit": "vco_plugins.features.digits_vit:DigitsViT",
        "digits-cnn": "vco_plugins.features.digits_cnn:DigitsCNN",
        "clothing-vit": "vco_plugins.features.clothing_vit:ClothingViT",
        "clothing-cnn": "vco_plugins.features.clothing_cnn:ClothingCNN",
        "dinov2": "vco_plugins.features.dinov2:DINOv2",
        "dinov3": "vco_plugins.features.dinov3:DINOv3",
        "siglip": "vco_plugins.features.siglip:SigLIP",
        "siglip2": "vco_plugins.features.siglip2:SigLIP2",
        "mae": "vco_plugins.features.mae:MAE",
        "clip": "vco_plugins.features.clip:CLIP",
        "timm": "vco_plugins.features.timm_vit:TimmViT",
        "inception": "vco_plugins.features.inception:Inception",
    }


@hookimpl
def vco_adapters() -> dict[str, str]:
    return {
        "none": "vco_plugins.adapters.identity:Identity",
        "rms": "vco_plugins.adapters.rms:RMS",
        "coredi": "vco_plugins.adapters.coredi:CoReDi",
        "pca": "vco_plugins.adapters.pca:PCA",
        "spatial-norm": "vco_plugins.adapters.spatial:SpatialNorm",
        "class-token": "vco_plugins.adapters.class_token:ClassToken",
    }


@hookimpl
def vco_losses() -> dict[str, str]:
    return {
        "perceptual": "vco_plugins.losses.perceptual:Perceptual",
        "hybrid": "vco_plugins.losses.hybrid:Hybrid",
        "repa": "vco_plugins.losses.repa:REPA",
        "irepa": "vco_plugins.losses.irepa:IREPA",
        "drifting": "vco_plugins.losses.drifting:Drifting",
        "dino-forcing": "vco_plugins.losses.dino_forcing:DinoForcing",
        "sra": "vco_plugins.losses.sra:SRA",
        "meanflow": "vco_plugins.losses.meanflow:MeanFlow",
    }


@hookimpl
def vco_guidance() -> dict[str, str]:
    return {
        "cfg": "vco_plugins.guidance.cfg:CFG",
        "structural": "vco_plugins.guidance.structural:Structural",
        "representation": "vco_plugins.guidance.representation:Representation",
        "autoguidance": "vco_plugins.guidance.autoguidance:Autoguidance",
    }


@hookimpl
def vco_processes() -> dict[str, str]:
    return {
        "aligned": "vco_plugins.processes.aligned:Aligned",
        "shared": "vco_plugins.processes.shared:Shared",
        "shifted": "vco_plugins.processes.shifted:Shifted",
        "independent": "vco_plugins.processes.independent:Independent",
        "cascaded": "vco_plugins.processes.cascaded:Cascaded",
        "cascaded-noised": "vco_plugins.processes.cascaded:CascadedNoised",
        "offset": "vco_plugins.processes.offset:Offset",
        "learned": "vco_plugins.processes.learned:Learned",
    }


@hookimpl
def vco_solvers() -> dict[str, str]:
    return {
        "euler": "vco_plugins.solvers.euler:Euler",
        "heun": "vco_plugins.solvers.heun:Heun",
        "sde": "vco_plugins.solvers.sde:SDE",
        "meanflow": "vco_plugins.solvers.meanflow:MeanFlow",
    }


@hookimpl
def vco_optimizers() -> dict[str, str]:
    return {"adamw": "vco_plugins.optimizers.adamw:AdamW", "muon": "vco_plugins.optimizers.muon:Muon"}


@hookimpl
def vco_metrics() -> dict[str, str]:
    return {
        "fd": "vco_plugins.metrics.fd:FD",
        "kid": "vco_plugins.metrics.kid:KID",
        "mind": "vco_plugins.metrics.mind:MIND",
        "prc": "vco_plugins.metrics.prc:PRC",
        "is": "vco_plugins.metrics.inception_score:InceptionScore",
    }


@hookimpl
def vco_data() -> dict[str, str]:
    return {
        "digits": "vco_plugins.data.digits:Digits",
        "clothing32": "vco_plugins.data.clothing:Clothing32",
        "image-folder": "vco_plugins.data.image_folder:ImageFolder",
        "repa-latents": "vco_plugins.data.repa_latents:RepaLatents",
        "shards": "vco_plugins.data.shards:Shards",
        "hf": "vco_plugins.data.hf:HuggingFace",
    }


@hookimpl
def vco_presets() -> dict[str, str]:
    files = sorted((Path(__file__).parent / "presets").glob("*.yaml"))
    return {file.stem: f"vco_plugins:presets/{file.name}" for file in files}
