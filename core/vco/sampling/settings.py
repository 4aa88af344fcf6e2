"""The settings that act in sampling alone: which they are, what a run has them at, and how they are set anew."""

from collections.abc import Sequence
from typing import Any, Final

import attrs
import torch

from vco.api import GuidanceSetting
from vco.config.command_line import parse
from vco.config.plain import sampling_options, to_plain
from vco.config.settings import RunConfig
from vco.errors import UserError
from vco.objective import Objective
from vco.run import Run

ACTING: Final = ("sample.", "solver", "mixed_precision", "train.compile")
"""Beginnings of settings that act in sampling, beside those of which a component says so."""

MAY_STAND: Final = ("plugin", "no_plugin")
"""Flags that may stand among them."""


def refuse_others(options: Sequence[str], config: RunConfig) -> None:
    """Refuses options that do not act in sampling.

    Args:
        options: arguments of `vco-run`.
        config: what they lead to.

    Raises:
        UserError: naming those that training depends on, or that do nothing here.
    """
    line = parse(options)
    free = {f"{part.path}.{name}" for part in config.parts for name in sampling_options(type(part.config))}
    fixed = sorted(key for key in line.layer if key not in free and not key.startswith(ACTING))
    fixed += [flag.replace("_", "-") for flag, given in line.flags.items() if given and flag not in MAY_STAND]
    if fixed:
        raise UserError(
            f"{', '.join(fixed)} cannot be changed after training; only options that act in sampling alone can, such "
            "as --sample.steps, --solver or --guidance.scale"
        )


def acting(config: RunConfig) -> dict[str, Any]:
    """The settings on which images depend, as plain data: solver steps, and the options of components."""
    found: dict[str, Any] = {"steps": config.sample.steps}
    for part in config.parts:
        free = sampling_options(type(part.config))
        options = to_plain(part.config)
        if part.section != "solver":
            options = {name: value for name, value in options.items() if name in free}
        if options or part.section in ("solver", "guidance", "process", "codec"):
            found[part.path] = {"name": part.name, **options}
    return found


def with_steps(run: Run, steps: int | None) -> Run:
    """The run with other solver steps; None leaves them as they are."""
    if steps is None:
        return run
    if not isinstance(steps, int) or steps < 1:  # pyright: ignore[reportUnnecessaryIsInstance] (of a notebook)
        raise UserError(f"steps are the steps of the solver, at least 1, and not {steps}")
    return attrs.evolve(run, config=attrs.evolve(run.config, sample=attrs.evolve(run.config.sample, steps=steps)))


def require_scale(config: RunConfig) -> None:
    """Raises `UserError` if the guidance of a run has no scale."""
    part = config.part("guidance")
    if "scale" not in attrs.fields_dict(type(part.config)):
        raise UserError(f"guidance {part.name} of this run has no scale")


def with_scale(run: Run, model: Objective, scale: float | None, device: torch.device | str) -> Objective:
    """The model with another guidance scale; everything else is shared. None leaves it as it is.

    Raises:
        UserError: if guidance has no scale, or not such a one.
    """
    if scale is None:
        return model
    require_scale(run.config)
    guidance = model.guidance
    try:
        config = attrs.evolve(guidance.config, scale=scale)
    except (ValueError, TypeError) as error:
        raise UserError(f"scale {scale}: {error.args[0]}") from error
    setting = GuidanceSetting(streams=model.specs, num_classes=run.facts.num_classes)
    other = type(guidance)(config, setting)
    other.load_state_dict(guidance.state_dict())
    twin = model.with_weights(model.state_dict())
    twin.guidance = other.to(device).eval().requires_grad_(False)
    return twin
