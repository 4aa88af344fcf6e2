"""Classifier-free guidance."""

from jaxtyping import Bool, Int
from torch import Tensor

from vco.api import Condition
from vco_plugins.two_branch import TwoBranchConfig, TwoBranchGuidance


class CFG(TwoBranchGuidance):
    """Classifier-free guidance within a time interval; the null branch lacks the label [Ho & Salimans].

    Source: Ho and Salimans (arXiv 2207.12598), eq. 6 with w = scale - 1; the interval is that of
        Kynkäänniemi et al. (arXiv 2404.07724).
    """

    Config = TwoBranchConfig

    def without(self, labels: Int[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Condition:
        return Condition(labels=labels.masked_fill(dropped, self.num_classes))
