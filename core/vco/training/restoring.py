"""Whether a whole checkpoint is one of this run: every name and shape is compared before anything is changed."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from vco.errors import UserError
from vco.storage.checkpoint import Checkpoint


def require_fit(
    saved: Checkpoint,
    model: Mapping[str, Tensor],
    decays: Sequence[float],
    trained: Mapping[str, Tensor],
    seed: int,
    folder: str,
) -> None:
    """Raises `UserError` unless the checkpoint holds what this run would have saved.

    Args:
        saved: the checkpoint.
        model: the run's parameters and buffers by name.
        decays: its running averages.
        trained: its trained parameters by name.
        seed: its seed.
        folder: the run folder, for messages.
    """
    where = f"the checkpoint of step {saved.step} in {folder}"
    memory = saved.tensors.get("optimizer")
    if memory is None:
        raise UserError(
            f"{folder} holds weights that were imported or exported, which cannot go on; begin a new run with them: "
            f"--from {folder}"
        )
    _compare(saved, "model", model, f"{where} holds other components than this run")
    for number in range(len(decays)):
        _compare(saved, f"ema-{number}", model, f"{where} has another running average {number} than this run")
    if (was := saved.state.get("seed", seed)) != seed:
        raise UserError(f"{where} belongs to a run with seed {was}, and this one has seed {seed}; put back its own")
    for full, value in memory.items():
        name = full.rpartition("/")[0]
        if name not in trained:
            raise UserError(f"{where} holds the optimizer's state of {name}, which this run does not train")
        if value.ndim and value.shape != trained[name].shape:
            raise UserError(f"{where} holds the optimizer's state of {name} in another shape ({tuple(value.shape)})")


def _compare(saved: Checkpoint, stem: str, model: Mapping[str, Tensor], problem: str) -> None:
    """Compares names and shapes of one set of weights."""
    expected = {name: value.shape for name, value in model.items()}
    found = {name: value.shape for name, value in saved.tensors.get(stem, {}).items()}
    if expected != found:
        odd = sorted({n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)})
        raise UserError(
            f"{problem}: {odd[0]} and {len(odd) - 1} more tensors differ; use the settings it was made with, or "
            "another --output-dir"
        )
