"""How an encoder's class token enters a network as a token of its own, and how it is predicted."""

from typing import Final

from jaxtyping import Float
from torch import Tensor, nn

from vco_plugins.layers.basic import Told, linear
from vco_plugins.layers.blocks import Head

CLASS_TOKEN: Final = "class_token"
"""Name of the stream."""


class ClassToken(nn.Module):
    """The way into the network for an encoder's class token, and out; the way out starts as zero [REG].

    Source: Representation Entanglement for Generation (arXiv 2507.01467).
    """

    def __init__(self, width: int, own_width: int, features: int) -> None:
        super().__init__()
        self.input = linear(features, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.output = linear(own_width, features, zero=True)

    def embed(self, x: Float[Tensor, "b 1 e"]) -> Float[Tensor, "b 1 d"]:
        """Returns its token."""
        return self.norm(self.input(x.to(self.input.weight.dtype)))

    def read(self, x: Float[Tensor, "b 1 d"], head: Head, c: Told) -> Float[Tensor, "b 1 e"]:
        """Returns the prediction of the class token, after the final norm of a patch stream's head."""
        return self.output(head.normed(x, c))
