"""Sharding (FSDP2): each process keeps a part of the network's weights, of their averages, and of the optimizer state.

The backbone is shared out, block by block: a block's weights are gathered when it is computed, and its gradients are
averaged over the processes and cut again. Everything else that learns (adapter, heads of losses, a process, guidance)
is small, and is read outside of forward passes: it is copied, and its gradients are averaged. Frozen encoders and the
codec are no part of what is trained, and are copied too.
"""

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from vco.api import Backbone, Denoised, Tap
from vco.errors import UserError, one_line
from vco.objective import Draw, Objective
from vco.pieces import shared_out
from vco.step_inputs import Inputs
from vco.transforms import in_transform


def share_out(objective: Objective, device: torch.device) -> Objective:
    """Cuts the backbone's weights into pieces, one for each process; every process calls this.

    Args:
        objective: the model, with the same weights in all processes; it is changed.
        device: where it is.

    Returns:
        A frozen twin of its own memory, shared out likewise: what an average can live in.

    Raises:
        UserError: if the backbone cannot be shared out.
    """
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    twin = objective.twin()
    for model in (objective, twin):
        try:
            _shard(model.backbone, mesh)
        except (ValueError, TypeError, RuntimeError, AssertionError, NotImplementedError) as error:
            raise UserError(
                f"--train.sharding fsdp cannot share out this backbone: {one_line(error)}; leave the option out"
            ) from error
    copied = {name: value.clone() for name, value in twin.state_dict().items() if not shared_out(value)}
    twin.load_state_dict(copied, assign=True, strict=False)
    return twin.eval().requires_grad_(False)


def _shard(backbone: Backbone, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    # an answer's tensors are views, which nobody changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    modules = [*backbone.block_modules(), backbone]
    _require_own_weights(backbone)
    single = {parameter for parameter in backbone.parameters() if not parameter.ndim}  # which have no rows
    backbone.register_forward_pre_hook(_require_plain_pass)
    # older versions of FSDP find no tensors in dataclasses: they are shown what an answer holds
    backbone.register_forward_hook(_plain)
    for module in modules:
        # gathered anew in the backward pass, the outermost weights too: what was gathered before the weights moved
        # would otherwise be used after it
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=single)
    backbone.register_forward_hook(_answer)


def _require_plain_pass(module: nn.Module, given: Any) -> None:
    """Raises `UserError` in a transform of an older PyTorch, whose FSDP then spoils the weights of other passes."""
    if torch.__version__ < "2.15" and in_transform():  # compared as versions are
        raise UserError(
            "--train.sharding fsdp with a loss that takes forward derivatives of the network, such as meanflow, needs "
            f"PyTorch 2.15 or newer, and this is {torch.__version__}; leave the option out"
        )


def _plain(module: nn.Module, given: Any, answer: Denoised) -> dict[str, dict[Any, Any]]:
    taps = {number: (tap.tokens, tap.positions) for number, tap in answer.taps.items()}
    plain = {"clean": answer.clean, "velocity": answer.velocity, "context": answer.context}
    return {"taps": taps} | {name: dict(value) for name, value in plain.items()}


def _answer(module: nn.Module, given: Any, plain: dict[str, dict[Any, Any]]) -> Denoised:
    taps = {number: Tap(tokens=tokens, positions=where) for number, (tokens, where) in plain["taps"].items()}
    return Denoised(clean=plain["clean"], velocity=plain["velocity"], taps=taps, context=plain["context"])


def _require_own_weights(backbone: Backbone) -> None:
    """Raises `ValueError` if a block has a weight in common with another one, or with what is around the blocks."""
    blocks = backbone.block_modules()
    inside = {id(module): number for number, block in enumerate(blocks, start=1) for module in block.modules()}
    owner: dict[int, int] = {}
    for name, module in backbone.named_modules(remove_duplicate=False):
        for key, parameter in module.named_parameters(recurse=False):
            here = inside.get(id(module), 0)
            if owner.setdefault(id(parameter), here) != here:
                raise ValueError(f"its weight {name}.{key} belongs to several blocks, or to one and the rest")


class Shards(nn.Module):
    """What a step calls where weights are shared out, in the place of `DistributedDataParallel`."""

    def __init__(self, accelerator: Accelerator, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.accelerator = accelerator
        self._saved = objective.state_dict().keys()

    def forward(self, inputs: Inputs, draw: Draw, number: int = 0) -> Mapping[str, Tensor]:
        """The losses of this process's share of a batch, float32; arguments as for `Objective`."""
        for name, buffer in self.objective.named_buffers():
            if name in self._saved:  # as data-parallel training does: those that are saved are the first process's
                distributed.broadcast(buffer, src=0)
        with self.accelerator.autocast():
            losses = self.objective(inputs, draw, number)
        return {name: value.float() for name, value in losses.items()}

    @contextmanager
    def no_sync(self) -> Generator[None]:
        """Inside it, backward passes add up gradients, and leave it to a later one to average them over processes."""
        backbone: Any = self.objective.backbone
        backbone.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            backbone.set_requires_gradient_sync(True)

    def average_copied(self) -> None:
        """Averages the gradients of what every process holds whole; those of the shared-out weights are averaged."""
        gradients = [p.grad for p in self.objective.parameters() if p.grad is not None and not shared_out(p)]
        if gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients]) / distributed.get_world_size()
            distributed.all_reduce(flat)
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))
