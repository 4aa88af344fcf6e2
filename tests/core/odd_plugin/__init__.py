"""A plugin with parts that misbehave, for the tests of training."""

from vco import hookimpl

vco_api = 2


@hookimpl
def vco_losses() -> dict[str, str]:
    return {
        "broken": "odd_plugin.losses:Broken",
        "fragile": "odd_plugin.losses:Fragile",
        "idle-head": "odd_plugin.losses:IdleHead",
        "nan-later": "odd_plugin.losses:NanLater",
        "nan-once": "odd_plugin.losses:NanOnce",
        "new-author": "odd_plugin.losses:NewAuthor",
        "numberless": "odd_plugin.losses:Numberless",
        "of-another-time": "odd_plugin.losses:OfAnotherTime",
        "peeking": "odd_plugin.losses:Peeking",
        "per-token": "odd_plugin.losses:PerToken",
        "restless": "odd_plugin.losses:Restless",
    }


@hookimpl
def vco_data() -> dict[str, str]:
    return {
        "crashing": "odd_plugin.data:Crashing",
        "deadly": "odd_plugin.data:Deadly",
        "endless-for-one": "odd_plugin.data:EndlessForOne",
        "shapeless": "odd_plugin.data:Shapeless",
        "spoilt": "odd_plugin.data:Spoilt",
        "spoilt-for-one": "odd_plugin.data:SpoiltForOne",
    }


@hookimpl
def vco_solvers() -> dict[str, str]:
    return {"wordy": "odd_plugin.solvers:Wordy"}
