"""The memory of a training, predicted before it begins: its weights with what goes with them, and what an image takes.

What an image takes is counted in a forward pass of the run's own networks, made of tensors that have shapes and no
content: whatever the pass lays aside for the backward pass is noted. So neither the size of the network nor the device
at hand matters.
"""

import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from vco.api import ParameterGroup
from vco.errors import one_line
from vco.objective import Objective
from vco.outline import outline
from vco.randomness import RowGenerator
from vco.run import Run
from vco.step_inputs import Inputs
from vco.training.recomputing import in_transform

BYTES: Final = 4
"""Of a float32."""
FEW: Final = 2
MANY: Final = 4
"""Images of the two passes whose difference is what an image takes."""
USABLE: Final = 0.92
"""Share of a GPU's memory that is reckoned with: the rest is its driver's, its allocator's and that of kernels."""
HALVED: Final = (
    F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm, torch.baddbmm,
    torch.einsum, torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d, F.scaled_dot_product_attention,
)  # fmt: skip
"""What autocast computes in bf16."""
WHOLE: Final = (
    F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, torch.exp, Tensor.exp, torch.pow, Tensor.pow,
    torch.rsqrt, Tensor.rsqrt, F.cosine_similarity, F.cross_entropy, F.mse_loss, F.normalize,
)  # fmt: skip
"""What autocast computes in float32."""


@attrs.frozen(kw_only=True)
class State:
    """Bytes that do not depend on the batch, of one process."""

    weights: int
    gradients: int
    optimizer: int
    averages: int

    @property
    def sentence(self) -> str:
        """What they are, as one reads it."""
        names = attrs.asdict(self)
        return f"{size(self.whole)}: " + ", ".join(f"{name} {size(number)}" for name, number in names.items())

    @property
    def whole(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.averages


@attrs.frozen(kw_only=True)
class Kept:
    """Bytes that a forward pass keeps for the backward pass."""

    image: float
    """Of each image."""
    recomputed: float | None
    """Of each image, with --train.checkpoint-blocks; None if the network names no blocks."""
    rest: float
    """Whatever the batch: copies of weights in bf16."""
    frozen: int
    """Weights of encoders and codec."""

    def fitting(self, state: State, memory: float, recomputed: bool = False) -> int:
        """Images of a pass that fit into so many bytes of a GPU."""
        image = self.recomputed if recomputed and self.recomputed else self.image
        return max(0, int((USABLE * memory - state.whole - self.frozen - self.rest) / image))


def size(number: int | float) -> str:
    """Bytes as one reads them, as in "6.3 GB"."""
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if number >= u), (1e3, "kB"))
    return f"{number / unit:,.3g} {name}"


def state_of(run: Run, processes: int = 1) -> State:
    """What weights take, with all that goes with each of them; exact, for weights of float32.

    Args:
        run: may lie on the meta device.
        processes: of which each has a share, with --train.sharding fsdp.
    """
    train, objective = run.config.train, run.objective
    parts = processes if train.sharding == "fsdp" else 1

    def share(name: str, size: int) -> int:
        return -(-size // parts) if name == "backbone" else size

    weights = trained = averages = remembered = 0
    for name, part in objective.components.items():
        learning = {f"{name}.{n}": p for n, p in part.named_parameters() if p.requires_grad}
        saved = sum(value.numel() for value in part.state_dict().values())
        weights += share(name, sum(value.numel() for value in (*part.parameters(), *part.buffers())))
        trained += share(name, sum(p.numel() for p in learning.values()))
        averages += share(name, len(train.ema_decays) * saved)
        remembered += share(name, run.optimizer.remembers(ParameterGroup(component=name, parameters=learning)))
    sizes = (weights, trained, remembered, averages)
    return State(
        **dict(zip(("weights", "gradients", "optimizer", "averages"), (BYTES * n for n in sizes), strict=True))
    )


def kept_by(run: Run, bf16: bool) -> Kept | str:
    """What the forward pass of a training step keeps; or in a few words why that cannot be counted.

    Args:
        run: assembled on the meta device, nothing of it loaded; it is of no other use afterwards.
        bf16: whether the network computes in bf16, as on a GPU, or in float32.
    """
    objective = run.objective.train()
    try:
        objective.process.to_empty(device="cpu")  # times are drawn there, also where they are learned
        if any(loss.needs_teacher for loss in objective.losses.values()):
            objective.teach(objective.state_dict())
        for part in run.frozen_in_training.values():
            with outline(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that weights which are read have no place to go to
                part.sketch()
            part.to("meta").requires_grad_(False).eval()
        few, many = (_pass(objective, run.facts.image_shape, images, bf16) for images in (FEW, MANY))
        weights = [p for part in run.frozen_in_training.values() for p in part.parameters()]
    except Exception as error:  # of anybody's code, which was not made for tensors without content
        return one_line(error)
    image, recomputed = ((b - a) / (MANY - FEW) for a, b in zip(few, many, strict=True))
    return Kept(
        image=image,
        recomputed=recomputed if objective.backbone.block_modules() else None,
        rest=max(0.0, few[0] - FEW * image),
        frozen=sum(weight.numel() * weight.element_size() for weight in weights),
    )


def _pass(objective: Objective, shape: Sequence[int], images: int, bf16: bool) -> tuple[int, int]:
    """Bytes that a forward pass keeps: as it is, and with blocks recomputed, of which one at a time keeps anything."""
    aside = _Aside(objective)
    drawn = objective.draw(torch.zeros(images, dtype=torch.long), seed=0, step=0)
    with outline(), aside.counting(), _arithmetic(bf16):
        noise_shape = objective.codec.noise_shape
        inputs = Inputs(
            images=torch.empty(images, *shape),
            labels=torch.empty(images, dtype=torch.long),
            noise={name: torch.empty(images, *spec.shape) for name, spec in objective.specs.items()},
            generator=_NoValues((0,), range(images)),
            encoding_noise=None if noise_shape is None else torch.empty(images, *noise_shape),
        )
        objective(inputs, drawn.map(lambda tensor: tensor.to("meta")), 0)
    return aside.plain, aside.recomputed


class _Aside:
    """What a forward pass lays aside, with and within the network's blocks."""

    def __init__(self, objective: Objective) -> None:
        self.blocks = objective.backbone.block_modules()
        beside: Iterable[nn.Module] = (objective.codec, *objective.sources.values())
        held = [t for module in (objective, *beside) for t in (*module.parameters(), *module.buffers())]
        self.known = {_key(tensor) for tensor in held}
        self.outside: dict[int, Any] = {}
        self.inside: list[dict[int, Any]] = []
        self.present = self.outside

    @property
    def plain(self) -> int:
        """Bytes, each tensor once."""
        merged = dict(self.outside)
        for block in self.inside:
            merged |= block
        return _bytes(merged)

    @property
    def recomputed(self) -> int:
        """Bytes, if blocks keep what enters them, and are computed again one after the other."""
        within = [{key: value for key, value in block.items() if key not in self.outside} for block in self.inside]
        return _bytes(self.outside) + max(map(_bytes, within), default=0)

    @contextmanager
    def counting(self) -> Generator[None]:
        """Inside it, what is laid aside is noted."""
        handles = [block.register_forward_pre_hook(self._enter, with_kwargs=True) for block in self.blocks]
        handles += [block.register_forward_hook(self._leave) for block in self.blocks]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, tensor: Tensor) -> Tensor:
        if (key := _key(tensor)) not in self.known:
            self.present[key] = tensor.untyped_storage()
        return tensor

    def _enter(self, block: nn.Module, given: Any, named: Any) -> None:
        if torch.is_grad_enabled():
            for tensor in tree_leaves((given, named)):
                if isinstance(tensor, Tensor):
                    self._note(tensor)
            self.present = {}
            self.inside.append(self.present)

    def _leave(self, block: nn.Module, given: Any, answer: Any) -> None:
        self.present = self.outside


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _bytes(storages: Mapping[int, Any]) -> int:
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def _arithmetic(bf16: bool) -> Generator[None]:
    """Computes without values as a GPU does: in bf16 where autocast says so, attention in one piece.

    The meta device has no autocast; the CPU's, which leaves it alone, says whether it is on. Where values choose rows,
    all of them are chosen.
    """
    with (
        mock.patch.object(torch, "autocast", _Autocast),
        mock.patch.object(_config, "meta_nonzero_assume_all_nonzero", True),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        _AsOnGPU(),
    ):
        yield


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *given: Any, **options: Any) -> None:
        super().__init__("cpu" if device_type == "meta" else device_type, *given, **options)


class _AsOnGPU(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.cast: dict[int, Tensor] = {}
        """Weights in bf16, each of which autocast makes once."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = (args, dict(kwargs or {}))
        if torch.is_autocast_enabled("cpu") and func in (*HALVED, *WHOLE):
            wanted = self._halved if func in HALVED else _whole
            given = tree_map(wanted, given)
        if func is F.scaled_dot_product_attention and not in_transform():  # which knows attention by its parts alone
            func = _attention
        return func(*given[0], **given[1])

    def _halved(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.bfloat16()
        if id(value) not in self.cast:
            self.cast[id(value)] = value.bfloat16()
        return self.cast[id(value)]


def _whole(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention in one piece, which keeps no table of all pairs of tokens."""
    if attn_mask is not None and attn_mask.dtype != query.dtype:
        attn_mask = torch.empty_like(attn_mask, dtype=query.dtype)
    fused: Callable[..., tuple[Tensor, Tensor]] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


@attrs.define
class _NoValues(RowGenerator):
    """Random numbers without values."""

    def _draw(self, function: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        return torch.empty(len(self.slots), *shape)
