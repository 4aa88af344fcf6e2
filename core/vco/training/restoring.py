"""What a checkpoint holds of a run, and going on from it: all is compared with the run before anything is changed."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vco.errors import UserError
from vco.storage.checkpoint import Checkpoint
from vco.storage.tensor_files import fill, shapes_of
from vco.training.optimizer import restore_state, state_by_name


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
    for full, shape in shapes_of(memory).items():
        name = full.rpartition("/")[0]
        if name not in trained:
            raise UserError(f"{where} holds the optimizer's state of {name}, which this run does not train")
        if shape and shape != tuple(trained[name].shape):
            raise UserError(f"{where} holds the optimizer's state of {name} in another shape ({shape})")


def tensors_of(
    objective: nn.Module,
    averages: Sequence[Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, Tensor],
) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of a checkpoint, which are those of the run; arguments as for `restore`."""
    found = {"model": objective.state_dict(), "optimizer": state_by_name(optimizer, trained)}
    return found | {f"ema-{i}": average for i, average in enumerate(averages)}


@torch.no_grad()
def restore(
    saved: Checkpoint,
    objective: nn.Module,
    averages: Sequence[Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, Tensor],
) -> None:
    """Gives a run the weights, averages and optimizer state of a checkpoint that fits it; of pieces, its own rows.

    Args:
        saved: the checkpoint.
        objective: all that the run trains.
        averages: its running averages.
        optimizer: its optimizer.
        trained: its trained parameters by name.
    """
    for stem, own in tensors_of(objective, averages, optimizer, {}).items():
        for name, value in own.items():
            fill(value, saved.tensors[stem], name)
    restore_state(optimizer, trained, saved.tensors["optimizer"])


def _compare(saved: Checkpoint, stem: str, model: Mapping[str, Tensor], problem: str) -> None:
    """Compares names and shapes of one set of weights."""
    expected, found = shapes_of(model), shapes_of(saved.tensors.get(stem, {}))
    if expected != found:
        odd = sorted({n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)})
        raise UserError(
            f"{problem}: {odd[0]} and {len(odd) - 1} more tensors differ; use the settings it was made with, or "
            "another --output-dir"
        )
