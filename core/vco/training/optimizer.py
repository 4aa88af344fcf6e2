"""The optimizer of a run: its learning rate at every step, and its state by the names of the parameters."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vco import api
from vco.config.settings import TrainConfig
from vco.errors import TrainingStoppedError, UserError, one_line
from vco.objective import Objective
from vco.pieces import local, shared_out
from vco.run import Run
from vco.storage.tensor_files import rows_for, shapes_of


def build_optimizer(run: Run) -> torch.optim.Optimizer:
    """The torch optimizer of a run's trained parameters, where they are now.

    Raises:
        UserError: if it cannot be built, or does not hold every parameter exactly once.
    """
    title, components = run.config.part("optimizer").title, run.objective.components
    groups = [
        api.ParameterGroup(component=name, parameters=parameters)
        for name, component in components.items()
        for in_pieces in (True, False)  # which no operation takes together
        if (parameters := {f"{name}.{n}": p for n, p in _trained(component) if shared_out(p) == in_pieces})
    ]
    try:
        optimizer = run.optimizer.build(groups)
    except Exception as error:
        raise UserError(f"{title} cannot be built: {one_line(error)}") from error
    held = sorted(id(p) for group in optimizer.param_groups for p in group["params"])
    if held != sorted(id(p) for group in groups for p in group.parameters.values()):
        raise UserError(f"{title} does not hold every trained parameter exactly once: its author has to mend that")
    if any(group.get("component") not in components for group in optimizer.param_groups):
        raise UserError(f"{title} dropped the key 'component' of a parameter group: its author has to keep it")
    return optimizer


def _trained(component: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in component.named_parameters() if parameter.requires_grad)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of the update after `step` updates.

    It grows linearly to its peak over the warm-up; the first update then has peak / warmup_steps (the published V-Co
    code starts with 0). A falling schedule ends at the floor with the last update.
    """
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "constant" or step < config.warmup_steps:
        return config.learning_rate * warm
    done = (step - config.warmup_steps) / max(config.steps - 1 - config.warmup_steps, 1)
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * (config.learning_rate_floor + (1 - config.learning_rate_floor) * left)


def set_learning_rate(optimizer: torch.optim.Optimizer, objective: Objective, rate: float, step: int) -> None:
    """Gives every group the rate, times what its component and the group itself ask for."""
    for group in optimizer.param_groups:
        scale = objective.components[group["component"]].learning_rate_scale(step)
        group["lr"] = rate * scale * group.get("lr_scale", 1.0)


def require_gradients(run: Run) -> None:
    """Data-parallel training waits for a gradient of every parameter, in every step.

    Raises:
        TrainingStoppedError: naming a parameter that has none.
    """
    for part, component in run.objective.components.items():
        for name, parameter in component.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                who = run.config.part(part.replace("losses.", "loss.")).title
                raise TrainingStoppedError(
                    f"training stopped: no gradient reaches the parameter {name} of {who}; its plugin has to give it "
                    "one in every step, or requires_grad_(False)"
                )


def state_by_name(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the optimizer remembers, as "parameter name/key" -> tensor."""
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return found


def restore_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Gives the optimizer back what `state_by_name` has saved.

    Raises:
        UserError: if a name is that of no trained parameter.
    """
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for full, shape in shapes_of(state).items():
        name, _, key = full.rpartition("/")
        if name not in parameters:
            raise UserError(f"the checkpoint holds the optimizer's state of {name}, which this run does not train")
        parameter = parameters[name]
        group = groups[id(parameter)]
        if shape and shared_out(parameter):
            rows = rows_for(parameter, state, full)
            own = torch.empty_like(parameter, dtype=rows.dtype)
            local(own).copy_(rows)
        else:
            # torch keeps its counter of updates on the CPU, unless its fused or capturable code reads it on the device
            on_device = shape or group.get("fused") or group.get("capturable")
            own = state[full].to(parameter.device if on_device else "cpu", copy=True)
        optimizer.state[parameter][key] = own
