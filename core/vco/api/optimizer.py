"""The contract of optimizers: what moves the weights."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import nn

from vco.api.component import Component


@attrs.frozen(kw_only=True)
class ParameterGroup:
    """The trained parameters of one component of the run."""

    component: str
    """As in "backbone", "adapter" or "losses.repa"; the learning rate of a group is this component's."""
    parameters: Mapping[str, nn.Parameter]
    """Full name -> parameter, as in "backbone.blocks.0.attention.qkv.weight"."""


@attrs.frozen(kw_only=True)
class OptimizerSetting:
    """What an optimizer is told of the run."""

    learning_rate: float
    """Peak learning rate (--train.learning-rate); the core sets the rate of every group before each step."""


class Optimizer(Component):
    """Makes the torch optimizer of a run. Constructed as `Class(config, OptimizerSetting)`.

    The core saves the state of the torch optimizer by the *name* of each parameter, so that a checkpoint does not
    depend on the order of groups. What is saved are the tensors of `optimizer.state[parameter]`.
    """

    def remembers(self, group: ParameterGroup) -> int:
        """How many numbers (float32) it will keep beside the parameters of a group, to predict a run's memory.

        Default: two for each parameter, as Adam does.
        """
        return 2 * sum(parameter.numel() for parameter in group.parameters.values())

    @abstractmethod
    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        """The torch optimizer of these parameters, each in exactly one of its groups.

        Every entry of its `param_groups` must hold the key "component" with the component of its parameters; it may
        split a component into several groups (say, with and without weight decay). The core sets `group["lr"]` to the
        scheduled rate, times the component's `learning_rate_scale`, times `group["lr_scale"]` where there is one.
        """
