"""A plugin with parts that misbehave, for the tests of training."""

from vco import hookimpl


@hookimpl
def vco_losses() -> dict[str, str]:
    return {
        "broken": "odd_plugin.losses:Broken",
        "nan-later": "odd_plugin.losses:NanLater",
        "restless": "odd_plugin.losses:Restless",
    }


@hookimpl
def vco_data() -> dict[str, str]:
    return {"crashing": "odd_plugin.data:Crashing", "spoilt": "odd_plugin.data:Spoilt"}
