"""The optimizer `my-optimizer`: what moves the weights, given their gradients.

The contract is `vco.api.Optimizer`. Any class of `torch.optim` can be built; this one is written out, to show how.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from attrs.validators import and_, ge, gt, lt

from vco.api import Optimizer, OptimizerSetting, ParameterGroup


class MyOptimizer(Optimizer):
    """Every weight moves by the sign of its averaged gradient, so that all move by the learning rate [Lion].

    Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms.
    """

    @attrs.frozen(kw_only=True)
    class Config(Optimizer.Config):
        """What a user may set."""

        momentum: float = attrs.field(default=0.9, validator=and_(ge(0.0), lt(1.0)))
        """Share of the average in the direction of a step, in [0, 1); the rest is the gradient's."""
        memory: float = attrs.field(default=0.99, validator=and_(ge(0.0), lt(1.0)))
        """Decay rate of the average of gradients, in [0, 1)."""
        scale: float = attrs.field(default=0.3, validator=gt(0.0))
        """Learning rate over that of the run, above 0; signs need smaller ones than Adam's steps."""

    def __init__(self, config: Config, setting: OptimizerSetting) -> None:
        self.config = config
        self.setting = setting

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        """One group for each component; vco sets its learning rate before every step, times its "lr_scale"."""
        config = self.config
        parts: list[dict[str, Any]] = [
            {"params": list(group.parameters.values()), "component": group.component, "lr_scale": config.scale}
            for group in groups
        ]
        return Signs(parts, rate=self.setting.learning_rate * config.scale, config=config)


class Signs(torch.optim.Optimizer):
    """The optimizer itself. What a step needs of those before it are tensors of `self.state[parameter]`."""

    def __init__(self, groups: Sequence[dict[str, Any]], rate: float, config: MyOptimizer.Config) -> None:
        super().__init__(groups, {"lr": rate})
        self.config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        """Moves every weight that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("average", torch.zeros_like(parameter))
                parameter.sub_(group["lr"] * average.lerp(parameter.grad, 1 - self.config.momentum).sign())
                average.lerp_(parameter.grad, 1 - self.config.memory)
        return loss
