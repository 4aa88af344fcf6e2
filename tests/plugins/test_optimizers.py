"""AdamW and Muon: which parameters they move how, and what survives a checkpoint."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vco.api import BackboneSetting, OptimizerSetting, ParameterGroup, StreamSpec
from vco_plugins.backbones.jit import JiT
from vco_plugins.optimizers.adamw import AdamW
from vco_plugins.optimizers.muon import Muon

SETTING = OptimizerSetting(learning_rate=0.01)


class Learner(nn.Module):
    """A backbone with two blocks, and an adapter with a numbered matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.ModuleDict(
            {
                "embed": nn.Linear(3, 4),
                "blocks": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]),
                "head": nn.Linear(4, 2),
            }
        )
        self.adapter = nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone["embed"](x)
        for block in self.backbone["blocks"]:  # pyright: ignore
            x = torch.tanh(block(x))
        return self.backbone["head"](self.adapter(x))

    @property
    def groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup(
                component=component,
                parameters={name: p for name, p in self.named_parameters() if name.startswith(component)},
            )
            for component in ("backbone", "adapter")
        ]


def gradients(learner: Learner, seed: int) -> None:
    learner.zero_grad()
    learner(torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))).square().mean().backward()


def train(learner: Learner, optimizer: torch.optim.Optimizer, seeds: Sequence[int]) -> None:
    for seed in seeds:
        gradients(learner, seed)
        optimizer.step()


every = pytest.mark.parametrize(
    "optimizer", [AdamW(AdamW.Config(), SETTING), Muon(Muon.Config(), SETTING)], ids=["adamw", "muon"]
)


@every
def test_every_parameter_is_in_one_group_that_knows_its_component(optimizer: Any) -> None:
    learner = Learner()
    names = {id(p): name for name, p in learner.named_parameters()}
    seen = [
        (names[id(p)], group["component"])
        for group in optimizer.build(learner.groups).param_groups
        for p in group["params"]
    ]
    assert sorted(name for name, _ in seen) == sorted(names.values())
    assert all(name.startswith(component) for name, component in seen)


@every
def test_every_parameter_moves_at_the_rate_that_is_set(optimizer: Any) -> None:
    learner = Learner()
    before = copy.deepcopy(learner.state_dict())
    built = optimizer.build(learner.groups)
    for group in built.param_groups:
        group["lr"] = 0.0 if group["component"] == "adapter" else 0.01
    train(learner, built, [0])
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("adapter"), name


@every
def test_state_that_is_saved_by_parameter_goes_on_as_if_nothing_had_happened(optimizer: Any) -> None:
    learner = Learner()
    built = optimizer.build(learner.groups)
    train(learner, built, [0, 1])
    resumed = Learner()
    resumed.load_state_dict(learner.state_dict())
    again = optimizer.build(resumed.groups)
    again.load_state_dict(copy.deepcopy(built.state_dict()))
    theirs = dict(learner.named_parameters())
    assert all(again.state[p].keys() == built.state[theirs[name]].keys() for name, p in resumed.named_parameters())
    for trained, with_optimizer in ((learner, built), (resumed, again)):
        for group in with_optimizer.param_groups:
            group["lr"] = 0.02
        train(trained, with_optimizer, [2, 3])
    for name, value in learner.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


# --------------------------------------------------------------------------------------------------------------- adamw


def test_adamw_is_that_of_torch() -> None:
    ours, theirs = Learner(), Learner()
    config = AdamW.Config(betas=(0.8, 0.9), weight_decay=0.1)
    train(ours, AdamW(config, SETTING).build(ours.groups), range(4))
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.1), range(4))
    for name, value in theirs.state_dict().items():  # the fused kernel rounds elsewhere
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_adamw_is_one_kernel_where_there_is_one() -> None:
    for device, fused in (("cpu", True), ("meta", False)):
        built = AdamW(AdamW.Config(), SETTING).build(Learner().to(device).groups)
        assert all(group["fused"] == fused for group in built.param_groups)


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_adamw_can_leave_biases_out_of_the_decay(decay: Any) -> None:
    learner = Learner()
    before = copy.deepcopy(learner.state_dict())
    built = AdamW(AdamW.Config(weight_decay=0.5, decay=decay), SETTING).build(learner.groups)
    for p in learner.parameters():
        p.grad = torch.zeros_like(p)
    built.step()
    for name, value in learner.state_dict().items():
        decays = decay == "all" or name.endswith("weight")
        torch.testing.assert_close(value, before[name] * (1 - 0.01 * 0.5 * decays))


# ---------------------------------------------------------------------------------------------------------------- muon


def share_of_muon(groups: Sequence[ParameterGroup], config: Muon.Config | None = None) -> set[str]:
    names = {id(p): name for group in groups for name, p in group.parameters.items()}
    built = Muon(config or Muon.Config(), SETTING).build(groups)
    return {names[id(p)] for group in built.param_groups if "ns_steps" in group for p in group["params"]}


def test_muon_moves_the_matrices_of_the_backbones_blocks_alone() -> None:
    assert share_of_muon(Learner().groups) == {"backbone.blocks.0.weight", "backbone.blocks.1.weight"}


def test_of_jit_muon_moves_all_matrices_of_attention_mlp_and_modulation() -> None:
    config = JiT.Config(width=8, depth=1, heads=1, bottleneck=4, patch=2, context_tokens=1, context_start=0)
    backbone = JiT(config, BackboneSetting(streams={"image": StreamSpec(shape=(1, 4, 4))}, num_classes=3, until=True))
    parameters = {f"backbone.{name}": p for name, p in backbone.named_parameters()}
    names = share_of_muon([ParameterGroup(component="backbone", parameters=parameters)])
    layers = ("attention.qkv", "attention.output", "stream.adaln.linear", "stream.mlp.input", "stream.mlp.output")
    assert names == {f"backbone.blocks.0.{layer}.weight" for layer in layers}


def test_muon_computes_what_torch_computes_in_two_optimizers() -> None:
    ours, theirs = Learner(), Learner()
    train(ours, Muon(Muon.Config(weight_decay=0.1, adamw_scale=0.5), SETTING).build(ours.groups), range(4))
    matrices = [block.weight for block in theirs.backbone["blocks"]]  # pyright: ignore
    others = [p for p in theirs.parameters() if all(p is not matrix for matrix in matrices)]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.005, betas=(0.9, 0.95), weight_decay=0.0)
    for seed in range(4):
        gradients(theirs, seed)
        muon.step()
        adamw.step()
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_the_rate_of_adamws_share_is_scaled_wherever_the_core_sets_it() -> None:
    built = Muon(Muon.Config(adamw_scale=0.25), SETTING).build(Learner().groups)
    scales = {group.get("lr_scale", 1.0): group["lr"] for group in built.param_groups}
    assert scales == {1.0: 0.01, 0.25: 0.0025}


def test_a_run_without_matrices_in_blocks_is_moved_by_adamw() -> None:
    learner = Learner()
    train(learner, Muon(Muon.Config(), SETTING).build(learner.groups[1:]), [0])


@pytest.mark.parametrize("options", [{"betas": (0.9, 1.0)}, {"weight_decay": -1.0}])
@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_impossible_settings_are_refused(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        kind.Config(**options)
