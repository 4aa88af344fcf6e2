"""Optimizers that order, or lose, what they are given."""

from collections.abc import Sequence
from typing import Any

import torch

from vco.api import Optimizer, OptimizerSetting, ParameterGroup


class Backwards(Optimizer):
    """AdamW with its groups, and the parameters in each, the last first."""

    def __init__(self, config: Optimizer.Config, setting: OptimizerSetting) -> None:
        self.config = config
        self.setting = setting

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.parts(groups), lr=self.setting.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    def parts(self, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
        """Torch's groups."""
        return [
            {"params": list(group.parameters.values())[::-1], "component": group.component} for group in groups[::-1]
        ]


class Forgetful(Backwards):
    """Leaves a group out."""

    def parts(self, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
        return [{"params": list(group.parameters.values()), "component": group.component} for group in groups[1:]]
