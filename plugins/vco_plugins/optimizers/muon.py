"""Muon for the matrices of the blocks, AdamW for everything else."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import attrs
import torch
from attrs.validators import and_, deep_iterable, ge, gt, in_, lt
from torch import nn

from vco.api import Optimizer, OptimizerSetting, ParameterGroup

BACKBONE: Final = "backbone"
"""The component whose matrices Muon moves."""


class Muon(Optimizer):
    """Muon orthogonalises the momentum of the weight matrices in the backbone's blocks; AdamW moves all other weights.

    A parameter is Muon's if it belongs to the backbone, has exactly two axes, and lies in a numbered list of modules,
    as "backbone.blocks.3.attention.qkv.weight" does. Embeddings, conditioning, heads, biases, scales of norms,
    convolutions, and whatever adapters and losses learn are AdamW's. Queries, keys and values that come from one
    projection are one matrix.

    With `adjust` at match-rms an update of Muon is as large as one of AdamW, so that both share a learning rate. With
    original, Muon wants about ten times the rate, and `adamw_scale` lowers that of AdamW's share.

    Source: Jordan et al. 2024 (Muon), by torch.optim.Muon; Moonlight (arXiv 2502.16982) for match-rms.
    """

    @attrs.frozen(kw_only=True)
    class Config(Optimizer.Config):
        """What a user may set."""

        momentum: float = attrs.field(default=0.95, validator=and_(ge(0.0), lt(1.0)))
        """Muon's momentum, in [0, 1)."""
        weight_decay: float = attrs.field(default=0.0, validator=ge(0.0))
        """Decoupled weight decay of Muon's matrices, at least 0; AdamW's share does not decay."""
        adjust: Literal["match-rms", "original"] = attrs.field(
            default="match-rms", validator=in_(("match-rms", "original"))
        )
        """Size of Muon's updates: as large as AdamW's, or as first published."""
        betas: tuple[float, float] = attrs.field(default=(0.9, 0.95), validator=deep_iterable(and_(ge(0.0), lt(1.0))))
        """AdamW's decay rates of the averages of gradients and of their squares, each in [0, 1)."""
        adamw_scale: float = attrs.field(default=1.0, validator=gt(0.0))
        """Learning rate of AdamW's share over that of Muon's, above 0."""

    def __init__(self, config: Config, setting: OptimizerSetting) -> None:
        self.config = config
        self.setting = setting

    def remembers(self, group: ParameterGroup) -> int:
        return sum(
            p.numel() * (1 if is_hidden_matrix(group.component, name, p) else 2) for name, p in group.parameters.items()
        )

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        config, rate = self.config, self.setting.learning_rate
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for group in groups:
            ours = {name: p for name, p in group.parameters.items() if is_hidden_matrix(group.component, name, p)}
            rest = [p for name, p in group.parameters.items() if name not in ours]
            if ours:
                matrices.append({"params": list(ours.values()), "component": group.component})
            if rest:
                others.append({"params": rest, "component": group.component, "lr_scale": config.adamw_scale})
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            adjust = {"match-rms": "match_rms_adamw", "original": "original"}[config.adjust]
            parts.append(
                torch.optim.Muon(
                    matrices, lr=rate, momentum=config.momentum, weight_decay=config.weight_decay, adjust_lr_fn=adjust
                )
            )
        if others:
            fused = all(parameter.device.type in ("cuda", "cpu") for group in others for parameter in group["params"])
            parts.append(
                torch.optim.AdamW(
                    others, lr=rate * config.adamw_scale, betas=config.betas, weight_decay=0.0, fused=fused
                )
            )
        return Together(parts)


def is_hidden_matrix(component: str, name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix in one of the backbone's blocks, which Muon moves."""
    in_a_list = any(part.isdecimal() for part in name.split("."))
    return component == BACKBONE and parameter.ndim == 2 and in_a_list


class Together(torch.optim.Optimizer):
    """Several optimizers as one: they share its groups and its state, and step one after the other."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        self.counts = [len(part.param_groups) for part in parts]
        super().__init__([group for part in parts for group in part.param_groups], defaults={})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # torch replaces the groups and the state of an optimizer whose state is loaded
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        """Moves all weights by their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def _share(self) -> None:
        """Hands the parts our own groups and state, so that what is set or loaded here holds there."""
        start = 0
        for part, count in zip(self.parts, self.counts, strict=True):
            part.param_groups = self.param_groups[start : start + count]
            part.state = self.state
            start += count
