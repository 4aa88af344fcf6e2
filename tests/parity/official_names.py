"""Golden files have the published code's parameter names: here as state dicts of our networks."""

from collections.abc import Mapping

from torch import Tensor

from vco_plugins.published import own_name


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict for `JiT`, `JiTDual` or `JiTJoint`; maps that are 1x1 convolutions there are flattened."""
    named = {name: (own_name(name), weight) for name, weight in weights.items()}
    return {own: _shape(name, weight) for name, (own, weight) in named.items() if own not in (None, "positions")}


def _shape(name: str, weight: Tensor) -> Tensor:
    if name.endswith("in_context_posemb"):
        return weight.squeeze(0)
    return weight.flatten(1) if weight.shape[2:] == (1, 1) and not name.endswith("pix_proj1.weight") else weight
