"""Laws for all components that map tensors to tensors: codecs, backbones, feature sources, adapters, losses."""

import copy
import sys
from typing import Any, Final
from unittest import mock

import attrs
import torch
import torch.fx.experimental._config
from torch import Tensor, nn

from vco.api import Codec, Loss
from vco.testing.case import ModuleCase, StreamCase, TrainedCase
from vco.testing.law import does_not_apply, law, require
from vco.testing.tensors import clone, leaves, no_ambient_draws, on_meta, require_same, row_of, with_rows

SELECTING: Final = "meta_nonzero_assume_all_nonzero"
"""Setting of torch under which rows can be selected on the meta device."""


@law(ModuleCase)
def output_is_finite(case: ModuleCase) -> None:
    """All numbers of its output are finite."""
    component = case.build()
    for name, leaf in leaves(case.run(component, case.inputs(component, 1))).items():
        require(torch.isfinite(leaf.detach()).all(), f"{name} has values that are not finite")


@law(ModuleCase)
def inputs_are_untouched(case: ModuleCase) -> None:
    """It changes no tensor that it is given, neither in eval mode nor in training."""
    component = case.build()
    for mode in (False, True):
        inputs = case.inputs(component, 1)
        before = clone(inputs)
        case.run(component.train(mode), inputs)
        for name, leaf in leaves(inputs).items():
            require(torch.equal(leaf, leaves(before)[name]), f"the input {name} was changed in place")


@law(ModuleCase)
def same_input_same_output(case: ModuleCase) -> None:
    """In eval mode the same input gives the same output, to the bit, and nothing is drawn from ambient randomness."""
    component = case.build()
    inputs = case.inputs(component, 1)
    first = case.run(component, inputs)
    with no_ambient_draws("forward in eval mode"):
        second = case.run(component, inputs)
    require_same(first, second, "two equal calls gave different results", 0.0)


@law(ModuleCase, about=lambda component: not (issubclass(component, Loss) and component.couples_batch))
def rows_do_not_mix(case: ModuleCase) -> None:
    """Row i of the output depends only on row i of the input, unless it says `couples_batch` (then in eval mode)."""
    component = case.build()
    modes = (False,) if getattr(component, "couples_batch", False) else (False, True)
    for mode in modes:
        component.train(mode)
        inputs, other = case.inputs(component, 1), case.inputs(component, 2)
        batch = len(next(iter(leaves(inputs).values())))
        for kept in {0, batch - 1} if batch > 1 else ():
            mask = torch.arange(batch) != kept
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                alone = case.run(component, inputs)
                torch.manual_seed(0)
                mixed = case.run(component, with_rows(inputs, other, mask))
            ones, others = row_of(alone, kept, batch), row_of(mixed, kept, batch)
            # other numbers of rows are added up in another order
            require_same(ones, others, f"row {kept} of {batch} changes with the other rows", 1e-4)


@law(StreamCase)
def dtype_follows_the_input(case: StreamCase) -> None:
    """Inputs of bfloat16 or float64 give outputs of that dtype; under bfloat16 autocast float32 stays float32."""
    component = case.build()
    inputs = case.inputs(component, 1)
    for dtype in (torch.bfloat16, torch.float64):
        _require_dtype(case.run(component, case.cast(inputs, dtype)), dtype, f"for inputs of {dtype}")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = case.run(component, case.cast(inputs, torch.float32))
    _require_dtype(outputs, torch.float32, "for float32 inputs under autocast")


def _require_dtype(outputs: Any, dtype: torch.dtype, when: str) -> None:
    for name, leaf in leaves(outputs).items():
        # taps, context, and scalars such as an adapter's losses, may stay in the arithmetic's dtype
        if leaf.is_floating_point() and leaf.ndim and not name.startswith(("taps", "context")):
            require(leaf.dtype == dtype, f"{name} is {leaf.dtype} {when}")


@law(ModuleCase)
def stays_on_its_device(case: ModuleCase) -> None:
    """It runs wholly on its inputs' device: no tensor is made elsewhere, no value is read back.

    Shown on the meta device, which every machine has and whose tensors have no values to read. On a GPU each read
    of a value waits. Losses that ask a network again may select the rows that they ask about.
    """
    component = case.build()
    rows_are_selected = case.waits_for_values(component)
    inputs = on_meta(case.inputs(component, 1))
    component = copy.deepcopy(component).to("meta").train()
    try:
        # on the meta device all rows are then of the kind that is selected
        selecting = mock.patch.object(torch.fx.experimental._config, SELECTING, rows_are_selected)
        with selecting, mock.patch.object(torch, "autocast", _Autocast):
            outputs = case.run(component, inputs)
    except (RuntimeError, NotImplementedError) as error:
        require(False, f"with everything on another device: {' '.join(str(error).split())[:200]}")
        raise
    for name, leaf in leaves(outputs).items():
        require(leaf.is_meta, f"{name} lies on {leaf.device} for inputs on another device")


class _Autocast(torch.autocast):
    """Autocast that may be asked for the meta device, which has none."""

    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **options)


@law(ModuleCase, once=True)
def tensors_are_registered(case: ModuleCase) -> None:
    """Its tensors are parameters or buffers, so that they move with it and can be saved; or what `metrics` returns."""
    component = case.build()
    case.run(component, case.inputs(component, 1))
    measured = {id(tensor) for tensor in component.metrics().values()}
    for name, module in component.named_modules():
        for key, value in vars(module).items():
            held = [] if key in ("_parameters", "_buffers", "_modules") else leaves(value).values()
            kept = [tensor for tensor in held if id(tensor) not in measured]
            require(not kept, f"{name}.{key}".strip(".") + " holds a tensor that is not registered")


@law(TrainedCase)
def nothing_kept_carries_a_gradient(case: TrainedCase) -> None:
    """After a training step neither buffers nor what `metrics` returns carry a gradient, which would keep the step.

    All that the step computed would stay in memory, and copies and saving fail.
    """
    component = case.build().train()
    inputs = case.inputs(component, 1)
    for x in leaves(inputs).values():
        x.requires_grad_(x.is_floating_point())
    case.run(component, inputs)
    for name, buffer in component.named_buffers():
        require(not buffer.requires_grad, f"after a training step the buffer {name} carries a gradient")
    for name, value in component.metrics().items():
        require(not value.requires_grad, f"after a training step the metric {name} carries a gradient")


@law(TrainedCase)
def state_round_trip(case: TrainedCase) -> None:
    """Its state dict, loaded into another instance, gives the same outputs: nothing that matters is left out."""
    elsewhere = attrs.evolve(case.sizes, seed=case.sizes.seed + 1)  # other initial weights
    component, other = case.build(), attrs.evolve(case, sizes=elsewhere).build()
    case.run(component.train(), case.inputs(component, 3))  # moves running statistics
    component.eval()
    _load(other, component)
    inputs = case.inputs(component, 1)
    require_same(case.run(component, inputs), case.run(other, inputs), "after loading its state", 0.0)


def _load(other: nn.Module, component: nn.Module) -> None:
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1.0)
    state = {name: tensor.detach().clone() for name, tensor in component.state_dict().items()}
    other.load_state_dict(state)


@law(TrainedCase, once=True)
def can_be_copied(case: TrainedCase) -> None:
    """`copy.deepcopy`, with which averaged weights are tried out, gives an independent component."""
    component = case.build()
    inputs = case.inputs(component, 1)
    before = clone(case.run(component, inputs))
    twin: nn.Module = copy.deepcopy(component)
    require_same(before, case.run(twin, inputs), "a copy", 0.0)
    with torch.no_grad():
        for parameter in component.parameters():
            parameter.add_(1.0)
    require_same(before, case.run(twin, inputs), "changing the weights of the original changed its copy", 0.0)


@law(TrainedCase, once=True)
def same_seed_same_weights(case: TrainedCase) -> None:
    """Constructed twice after the same `torch.manual_seed`, it has the same weights."""
    states: list[dict[str, Tensor]] = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            states.append(case.construct().state_dict())
    require_same(states[0], states[1], "two constructions after the same seed", 0.0)


@law(TrainedCase, once=True)
def can_be_built_on_meta(case: TrainedCase) -> None:
    """It can be constructed on the meta device, where a dry run builds it without memory for weights."""
    with torch.device("meta"):
        component = case.construct()
    for name, parameter in component.named_parameters():
        require(parameter.is_meta, f"{name} was made on {parameter.device} although another device was asked for")


@law(StreamCase, once=True, slow=True, about=lambda component: not issubclass(component, Codec))
def compiled_equals_eager(case: StreamCase) -> None:
    """torch.compile traces it without a graph break, and the result is that of eager mode."""
    import torch._dynamo as dynamo

    if "beartype" in sys.modules:
        does_not_apply("beartype is installed, which torch.compile cannot trace: run `vco check --slow`")
    component = case.build()
    inputs = case.inputs(component, 1)
    expected = case.run(component, inputs)
    dynamo.reset()
    compiled = torch.compile(component, backend="aot_eager", fullgraph=True)
    require_same(expected, case.run(compiled, inputs), "the compiled component", 1e-4)
