"""A complete plugin for the tests of the loader and of the configuration: every kind, one preset, nothing that runs."""

from vco import hookimpl

vco_api = 2


@hookimpl
def vco_codecs() -> dict[str, str]:
    return {"pixels": "fake_plugin.parts:Plain", "folded": "fake_plugin.parts:Folded"}


@hookimpl
def vco_backbones() -> dict[str, str]:
    return {"net": "fake_plugin.parts:Net", "other-net": "fake_plugin.parts:OtherNet"}


@hookimpl
def vco_features() -> dict[str, str]:
    return {"eyes": "fake_plugin.parts:Eyes", "ears": "fake_plugin.parts:Ears"}


@hookimpl
def vco_adapters() -> dict[str, str]:
    return {"none": "fake_plugin.parts:NoAdapter"}


@hookimpl
def vco_losses() -> dict[str, str]:
    return {"near": "fake_plugin.parts:Near", "far-off": "fake_plugin.parts:FarOff"}


@hookimpl
def vco_guidance() -> dict[str, str]:
    return {"free": "fake_plugin.parts:Free"}


@hookimpl
def vco_processes() -> dict[str, str]:
    return {"flow": "fake_plugin.parts:Flow"}


@hookimpl
def vco_solvers() -> dict[str, str]:
    return {"steps": "fake_plugin.parts:Steps"}


@hookimpl
def vco_optimizers() -> dict[str, str]:
    return {"adamw": "fake_plugin.parts:Descent"}


@hookimpl
def vco_metrics() -> dict[str, str]:
    return {"apart": "fake_plugin.parts:Apart", "count": "fake_plugin.parts:Count"}


@hookimpl
def vco_data() -> dict[str, str]:
    return {"dots": "fake_plugin.parts:Dots"}


@hookimpl
def vco_presets() -> dict[str, str]:
    return {
        "digits": "fake_plugin:digits.yaml",
        "bare": "fake_plugin:bare.yaml",
        "lost": "fake_plugin:lost.yaml",
        "astray": "fake_nowhere:a.yaml",
    }
