"""What this package offers; a light module, imported whenever vco lists its plugins."""

from vco import hookimpl

vco_api = 2


@hookimpl
def vco_losses() -> dict[str, str]:
    """The loss."""
    return {"relation": "vco_relation.loss:Relation"}


@hookimpl
def vco_adapters() -> dict[str, str]:
    """The adapter."""
    return {"centred": "vco_relation.adapter:Centred"}
