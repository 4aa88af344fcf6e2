"""Learning without labels: two views of an image are to look alike, and different images are not."""

from collections.abc import Callable
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor, nn

from vco.api import UserError

WIDTH: Final = 512
"""Width of the head, in which views are compared."""
View = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b 3 h w"]]


def two_views(encoder: Any, parts: dict[str, nn.Module], view: View) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of VICReg, as a function of images and labels, which it does not look at.

    Args:
        encoder: a network of timm that ends in its pooled vector.
        parts: gets the head, which is trained too.
        view: augments images, each time in another way.

    Raises:
        UserError: if lightly is not installed.

    Source: Bardes et al. 2022 (arXiv 2105.04906), as the library lightly has it, with its weights of the three terms.
    """
    try:
        from lightly.loss import VICRegLoss
        from lightly.models.modules.heads import VICRegProjectionHead
    except ImportError as error:
        raise UserError(
            "learning without labels needs the library lightly: pip install 'vco[ssl]'; images with classes do not."
        ) from error
    criterion = VICRegLoss()
    parts["head"] = head = VICRegProjectionHead(encoder.num_features, WIDTH, WIDTH, num_layers=2)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return criterion(*(head(encoder(view(images))) for _ in range(2)))

    return loss
