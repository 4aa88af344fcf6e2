"""The weak model of autoguidance: that of another run, taken from its folder."""

from pathlib import Path

import torch

from vco import checkpoint
from vco.errors import UserError
from vco.registry import Catalog
from vco.resolve import resolve
from vco.run import Run, assemble


def load_weak(run: Run, catalog: Catalog, device: torch.device | str = "cpu") -> None:
    """Gives a run the first EMA of the run that its guidance names (or last weights, if that run kept no average).

    Raises:
        UserError: if there is no such run, or its model does not fit this run's streams and classes.
    """
    folder = run.objective.guidance.weak_run
    if not folder:
        return
    where = f"guidance {run.config.guidance.name}: the run in {folder}"
    other = assemble(resolve(["--config", str(Path(folder) / "config.yaml")], catalog).config, catalog)
    weak, specs = other.objective, run.objective.specs
    if odd := [name for name, spec in weak.specs.items() if specs.get(name) != spec]:
        raise UserError(f"{where} has another stream {odd[0]!r} ({weak.specs[odd[0]]}) than this run")
    if other.data.num_classes != run.data.num_classes:
        raise UserError(f"{where} knows {other.data.num_classes} classes, and this run {run.data.num_classes}")
    newest = checkpoint.load_newest(Path(folder) / "checkpoints", print)
    if newest is None:
        raise UserError(f"{where} has no checkpoint yet; let it finish first")
    weak.load_state_dict(newest.tensors.get("ema-0", newest.tensors["model"]))
    run.objective.aside["weak"] = weak.to(device).eval().requires_grad_(False)
