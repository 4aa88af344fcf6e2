"""A plugin with parts that misbehave, for the tests of training."""

from vco import hookimpl


@hookimpl
def vco_losses() -> dict[str, str]:
    return {"nan-later": "odd_plugin.losses:NanLater", "restless": "odd_plugin.losses:Restless"}


@hookimpl
def vco_data() -> dict[str, str]:
    return {"spoilt": "odd_plugin.data:Spoilt"}
