"""The built-in plugins, registered through the same entry point as anybody's.

This module only names them; each class is imported when chosen.
"""

from vco import hookimpl


@hookimpl
def vco_backbones() -> dict[str, str]:
    return {"jit": "vco_plugins.backbones.jit:JiT", "jit-dual": "vco_plugins.backbones.jit_dual:JiTDual"}


@hookimpl
def vco_features() -> dict[str, str]:
    return {
        "digits-vit": "vco_plugins.features.digits_vit:DigitsViT",
        "digits-cnn": "vco_plugins.features.digits_cnn:DigitsCNN",
        "dinov2": "vco_plugins.features.dinov2:DINOv2",
        "inception": "vco_plugins.features.inception:Inception",
    }


@hookimpl
def vco_adapters() -> dict[str, str]:
    return {
        "none": "vco_plugins.adapters.identity:Identity",
        "rms": "vco_plugins.adapters.rms:RMS",
        "coredi": "vco_plugins.adapters.coredi:CoReDi",
    }


@hookimpl
def vco_losses() -> dict[str, str]:
    return {"perceptual": "vco_plugins.losses.perceptual:Perceptual", "hybrid": "vco_plugins.losses.hybrid:Hybrid"}


@hookimpl
def vco_guidance() -> dict[str, str]:
    return {
        "cfg": "vco_plugins.guidance.cfg:CFG",
        "structural": "vco_plugins.guidance.structural:Structural",
        "representation": "vco_plugins.guidance.representation:Representation",
    }


@hookimpl
def vco_processes() -> dict[str, str]:
    return {"shared": "vco_plugins.processes.shared:Shared"}


@hookimpl
def vco_solvers() -> dict[str, str]:
    return {"euler": "vco_plugins.solvers.euler:Euler", "heun": "vco_plugins.solvers.heun:Heun"}


@hookimpl
def vco_data() -> dict[str, str]:
    return {"digits": "vco_plugins.data.digits:Digits", "image-folder": "vco_plugins.data.image_folder:ImageFolder"}


@hookimpl
def vco_presets() -> dict[str, str]:
    names = ("digits", "imagenet256-b16", "imagenet256-l16", "imagenet256-h16")
    return {name: f"vco_plugins:presets/{name}.yaml" for name in names}
