"""A complete plugin for the tests of the loader and of the configuration: every kind, one preset, nothing that runs."""

from vco import hookimpl


@hookimpl
def vco_backbones() -> dict[str, str]:
    return {"net": "fake_plugin.parts:Net", "other-net": "fake_plugin.parts:OtherNet"}


@hookimpl
def vco_features() -> dict[str, str]:
    return {"eyes": "fake_plugin.parts:Eyes"}


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
