"""Components as small as the contracts allow, so that a test can work out their numbers by hand."""

from vco import hookimpl

vco_api = 2


@hookimpl
def vco_backbones() -> dict[str, str]:
    return {
        "toy": "toy_plugin.networks:Toy",
        "toy-blind": "toy_plugin.networks:Blind",
        "toy-deaf": "toy_plugin.networks:Deaf",
    }


@hookimpl
def vco_codecs() -> dict[str, str]:
    return {"doubled": "toy_plugin.networks:Doubled"}


@hookimpl
def vco_processes() -> dict[str, str]:
    return {"toy-tokens": "toy_plugin.sampling:Tokens", "toy-learned": "toy_plugin.sampling:Learned"}


@hookimpl
def vco_guidance() -> dict[str, str]:
    return {"toy-branches": "toy_plugin.sampling:Branches"}


@hookimpl
def vco_solvers() -> dict[str, str]:
    return {"leap": "toy_plugin.sampling:Leap"}


@hookimpl
def vco_losses() -> dict[str, str]:
    return {
        "asking": "toy_plugin.losses:Asking",
        "at-a-time": "toy_plugin.losses:AtATime",
        "drawing": "toy_plugin.losses:Drawing",
        "instead": "toy_plugin.losses:Instead",
        "instead-too": "toy_plugin.losses:Instead",
        "of-the-way": "toy_plugin.losses:OfTheWay",
        "square": "toy_plugin.losses:Square",
        "train": "toy_plugin.losses:Square",
    }


@hookimpl
def vco_optimizers() -> dict[str, str]:
    return {"backwards": "toy_plugin.optimizers:Backwards", "forgetful": "toy_plugin.optimizers:Forgetful"}


@hookimpl
def vco_metrics() -> dict[str, str]:
    return {"brightness": "toy_plugin.metrics:Brightness"}


@hookimpl
def vco_data() -> dict[str, str]:
    return {"captioned": "toy_plugin.data:Captioned"}
