"""Laws for optimizers."""

from collections.abc import Sequence
from typing import Any, Final

import attrs
import torch
from torch import Tensor, nn

from vco.api import Optimizer, OptimizerSetting, ParameterGroup
from vco.testing.case import Case
from vco.testing.law import law, require
from vco.testing.sizes import Sizes
from vco.testing.tensors import no_ambient_draws, require_same

RATE: Final = 0.01
"""Peak learning rate."""
SHAPES: Final = {
    "backbone": {
        "backbone.blocks.0.attention.qkv.weight": (6, 4),
        "backbone.blocks.0.attention.qkv.bias": (6,),
        "backbone.blocks.1.mlp.weight": (4, 8),
        "backbone.embed.weight": (4, 3, 2, 2),
        "backbone.label.weight": (5, 4),
        "backbone.gain": (),
    },
    "adapter": {"adapter.layer.weight": (3, 5), "adapter.layer.bias": (3,)},
    "losses.repa": {"losses.repa.projector.0.weight": (4, 4)},
}
"""Component -> name and shape of its parameters: matrices, vectors, a convolution, an embedding, a single number."""
Weights = dict[str, Tensor]


@attrs.frozen(kw_only=True)
class OptimizerCase(Case):
    """An optimizer of the weights of a small run."""

    kind = "optimizers"
    sizes_tried = (Sizes(batch=3), Sizes(batch=3, seed=1))

    def make(self) -> Optimizer:
        """The maker of optimizers."""
        return self.subject.component(self.config, OptimizerSetting(learning_rate=RATE))

    def weights(self, seed: int = 1) -> Weights:
        """Random numbers for every parameter."""
        draws = self.generator(seed)
        named = {name: shape for group in SHAPES.values() for name, shape in group.items()}
        return {name: torch.randn(shape, generator=draws) for name, shape in named.items()}

    def trained(self, weights: Weights) -> "Trained":
        """New parameters with these weights, and their optimizer."""
        parameters = {name: nn.Parameter(value.detach().clone()) for name, value in weights.items()}
        groups = [
            ParameterGroup(component=component, parameters={name: parameters[name] for name in shapes})
            for component, shapes in SHAPES.items()
        ]
        return Trained(parameters, groups, self.build().build(groups))


class Trained:
    """Parameters and the optimizer that moves them."""

    def __init__(
        self, parameters: dict[str, nn.Parameter], groups: Sequence[ParameterGroup], optimizer: torch.optim.Optimizer
    ) -> None:
        self.parameters, self.groups, self.optimizer = parameters, groups, optimizer

    @property
    def weights(self) -> Weights:
        """Copies of what the parameters are now."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def step(self, gradients: Weights, rate: float = RATE) -> Weights:
        """Sets rates and gradients as the core does, makes a step, and returns the weights after it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name].clone() if name in gradients else None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.weights

    def state(self) -> dict[str, Weights]:
        """What is saved: the tensors of each parameter's state by the name of the parameter."""
        return {
            name: {key: value.clone() for key, value in self.optimizer.state[parameter].items() if _is_tensor(value)}
            for name, parameter in self.parameters.items()
        }

    def restore(self, state: dict[str, Weights]) -> None:
        """Puts a saved state in the place of what there is."""
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {key: value.clone() for key, value in state[name].items()}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


@law(OptimizerCase)
def each_parameter_is_in_one_group(case: OptimizerCase) -> None:
    """Every parameter is in exactly one of its groups, and each group says of which component its parameters are."""
    trained = case.trained(case.weights())
    seen = [id(parameter) for group in trained.optimizer.param_groups for parameter in group["params"]]
    for name, parameter in trained.parameters.items():
        count = seen.count(id(parameter))
        require(count == 1, f"{name} is in {count} groups")
    require(len(seen) == len(trained.parameters), "its groups hold parameters that it was not given")
    owners = {id(p): group.component for group in trained.groups for p in group.parameters.values()}
    for group in trained.optimizer.param_groups:
        require("component" in group, 'a group lacks the key "component"')
        wrong = [owners[id(p)] for p in group["params"] if owners[id(p)] != group["component"]]
        require(not wrong, f"a group of the component {group['component']!r} holds parameters of {', '.join(wrong)}")


@law(OptimizerCase)
def a_step_moves_what_has_a_gradient(case: OptimizerCase) -> None:
    """A step moves every parameter that has a gradient, to finite values, and leaves those that have none.

    It does so whatever the order of the groups, and draws nothing ambient.
    """
    before, gradients = case.weights(), case.weights(2)
    trained = case.trained(before)
    with no_ambient_draws("a step"):
        after = trained.step(gradients)
    for name, value in after.items():
        require(torch.isfinite(value).all(), f"{name} is not finite after a step")
        require(not torch.equal(value, before[name]), f"{name} has a gradient, and a step does not move it")
    some = {name: gradient for name, gradient in gradients.items() if name.endswith("weight")}
    for name, value in case.trained(before).step(some).items():
        require(name in some or torch.equal(value, before[name]), f"{name} has no gradient, and a step moves it")


@law(OptimizerCase)
def state_goes_by_name(case: OptimizerCase) -> None:
    """Two steps are one step, its state saved by name and restored in a new optimizer, and another step: to the bit.

    So all that matters is in the tensors of `optimizer.state[parameter]`.
    """
    first, second, third = (case.weights(key) for key in (2, 3, 4))
    whole = case.trained(case.weights())
    for gradients in (first, second):
        whole.step(gradients)
    expected = whole.step(third)
    begun = case.trained(case.weights())
    begun.step(first)
    begun.step(second)
    resumed = case.trained(begun.weights)
    resumed.restore(begun.state())
    require_same(expected, resumed.step(third), "a step after its state was saved and restored", 0.0)


@law(OptimizerCase)
def learning_rate_is_obeyed(case: OptimizerCase) -> None:
    """At a group's learning rate 0 nothing moves, to the bit; at a larger one a first step is larger."""
    before, gradients = case.weights(), case.weights(2)
    for name, value in case.trained(before).step(gradients, rate=0.0).items():
        require(torch.equal(value, before[name]), f"{name} moves at the learning rate 0")
    small, large = (case.trained(before).step(gradients, rate=rate) for rate in (RATE, 3 * RATE))
    for name, start in before.items():
        further = (large[name] - start).norm() > 1.5 * (small[name] - start).norm()
        require(further, f"at three times the learning rate {name} moves hardly further")


@law(OptimizerCase)
def goes_downhill(case: OptimizerCase) -> None:
    """On squared distances to fixed targets, 200 steps more than halve the loss of every parameter."""
    # other options may have weights decay, which keeps them away from any target but 0
    goal = {name: 0.0 * value if case.varied else value for name, value in case.weights(5).items()}
    start = {name: value + 0.3 * case.weights(6)[name].sign() for name, value in goal.items()}
    trained = case.trained(start)
    weights = start
    for _ in range(200):
        weights = trained.step({name: weights[name] - value for name, value in goal.items()})
    for name, value in goal.items():
        before, after = ((x[name] - value).square().sum().item() for x in (start, weights))
        require(after < before / 2, f"the loss of {name} is {after:.3g} after 200 steps, from {before:.3g}")
