"""AdamW, the optimizer of JiT and V-Co."""

from collections.abc import Sequence
from typing import Any, Literal

import attrs
import torch
from attrs.validators import and_, deep_iterable, ge, in_, lt

from vco.api import Optimizer, OptimizerSetting, ParameterGroup


class AdamW(Optimizer):
    """Adam with decoupled weight decay, as torch has it, in its fused kernel on CUDA and on the CPU.

    Source: Loshchilov and Hutter (arXiv 1711.05101). The default rates are JiT's (arXiv 2511.13720).
    """

    @attrs.frozen(kw_only=True)
    class Config(Optimizer.Config):
        """What a user may set."""

        betas: tuple[float, float] = attrs.field(default=(0.9, 0.95), validator=deep_iterable(and_(ge(0.0), lt(1.0))))
        """Decay rates of the averages of gradients and of their squares, each in [0, 1)."""
        weight_decay: float = attrs.field(default=0.0, validator=ge(0.0))
        """Decoupled weight decay, at least 0."""
        decay: Literal["all", "matrices"] = attrs.field(default="all", validator=in_(("all", "matrices")))
        """Which parameters decay: all, or only those with two or more axes (no biases, scales of norms, gains)."""

    def __init__(self, config: Config, setting: OptimizerSetting) -> None:
        self.config = config
        self.setting = setting

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(
            [part for group in groups for part in self._parts(group)],
            lr=self.setting.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=all(p.device.type in ("cuda", "cpu") for group in groups for p in group.parameters.values()),
        )

    def _parts(self, group: ParameterGroup) -> list[dict[str, Any]]:
        """The parameters of a component as torch's groups: one, or two where only matrices decay."""
        parameters = list(group.parameters.values())
        parts: list[dict[str, Any]] = [{"params": parameters}]
        if self.config.decay == "matrices":
            matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
            others = [parameter for parameter in parameters if parameter.ndim < 2]
            parts = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        return [{**part, "component": group.component} for part in parts if part["params"]]
