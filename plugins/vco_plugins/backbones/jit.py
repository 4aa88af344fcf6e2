"""JiT, the plain pixel transformer."""

from collections.abc import Mapping

import attrs

from vco.api import PublishedWeights
from vco_plugins.published import recognise
from vco_plugins.routing import RoutedConfig
from vco_plugins.single_stream import SingleStream


class JiT(SingleStream):
    """Single-stream pixel transformer that predicts the clean image [JiT].

    Patches go through a bottleneck into a ViT with adaLN-Zero, rotary and fixed position embeddings, RMSNorm on queries
    and keys, and SwiGLU. From block `context_start` on, in-context class tokens stand in front of the patches. A run's
    other streams are ignored.

    Where every patch has a time of its own, each is modulated by its own; in-context tokens go by the mean of the
    sample's times. A run that tells where a step goes adds a second embedding, of the way that is left to go.

    With `route_ratio`, a share of each training sample's patches, drawn at random, skips the blocks from `route_start`
    to `route_end` and goes on after them as it was before [TREAD]. In-context tokens skip none. A tap of a routed block
    holds the patches that were kept.

    Size S (12 blocks, width 384, 6 heads, bottleneck 128, in-context tokens after 4 blocks) is ours, the others are the
    paper's: B 131 M, L 459 M, H 953 M, G 2 B parameters.

    Raises:
        UserError: If the patch does not divide the image, or there is no image stream.

    Source: Back to Basics: Let Denoising Generative Models Denoise (arXiv 2511.13720); routes are those of TREAD
        (arXiv 2501.04765).
    """

    @attrs.frozen(kw_only=True)
    class Config(RoutedConfig):
        """What a user may set."""

    def from_published(self, weights: PublishedWeights) -> Mapping[str, str]:
        return recognise(weights, "jit", self.config)
