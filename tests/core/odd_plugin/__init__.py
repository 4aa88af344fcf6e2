"""A plugin with parts that misbehave, for the tests of training."""

from vco import hookimpl


@hookimpl
def vco_losses() -> dict[str, str]:
    return {
        "broken": "odd_plugin.losses:Broken",
        "fragile": "odd_plugin.losses:Fragile",
        "idle-head": "odd_plugin.losses:IdleHead",
        "nan-later": "odd_plugin.losses:NanLater",
        "of-another-time": "odd_plugin.losses:OfAnotherTime",
        "restless": "odd_plugin.losses:Restless",
    }


@hookimpl
def vco_data() -> dict[str, str]:
    return {
        "crashing": "odd_plugin.data:Crashing",
        "shapeless": "odd_plugin.data:Shapeless",
        "spoilt": "odd_plugin.data:Spoilt",
        "spoilt-for-one": "odd_plugin.data:SpoiltForOne",
    }


@hookimpl
def vco_solvers() -> dict[str, str]:
    return {"wordy": "odd_plugin.solvers:Wordy"}
