"""Laws for backbones."""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import FEATURES, PIXELS, Backbone, Condition, Denoised, Streams, StreamSpec
from vco.errors import UserError
from vco.testing.case import StreamCase
from vco.testing.law import law, require
from vco.testing.tensors import cast, require_same

CLASSES = 4
PATCHES = (2, 1, 4, 8, 16)


@attrs.frozen(kw_only=True)
class BackboneCase(StreamCase):
    """A small network on streams that fit it."""

    kind = "backbones"

    def construct(self) -> Backbone:
        """The network on the first streams that it accepts."""
        key = (repr(self.config), self.sizes)
        refusal: UserError | None = None
        for streams in [self.subject.notes[key]] if key in self.subject.notes else self._offers():
            try:
                component = self.subject.component(self.config, streams=streams, num_classes=CLASSES)
            except UserError as error:
                refusal = refusal or error
            else:
                self.subject.notes[key] = streams
                return component
        assert refusal is not None
        raise refusal

    def _offers(self) -> Iterator[dict[str, StreamSpec]]:
        sizes, component = self.sizes, self.subject.component
        needed, optional = tuple(component.streams), tuple(component.optional_streams)
        patch = getattr(self.config, "patch", None)
        for columns in dict.fromkeys((sizes.columns, sizes.rows)):
            for side in (patch,) if patch else PATCHES:
                for names in dict.fromkeys(((*needed, *optional), needed)):
                    yield {name: self._spec(name, side, columns) for name in dict.fromkeys((PIXELS, *names))}

    def _spec(self, name: str, patch: int, columns: int) -> StreamSpec:
        sizes, grid = self.sizes, (self.sizes.rows, columns)
        if name == PIXELS:
            return StreamSpec(shape=(sizes.channels, grid[0] * patch, grid[1] * patch))
        if name == FEATURES:
            return StreamSpec(shape=(grid[0] * grid[1], sizes.width), grid=grid)
        return StreamSpec(shape=(1, sizes.width))

    @property
    def specs(self) -> dict[str, StreamSpec]:
        """The streams that the network was constructed with."""
        return self.subject.notes[repr(self.config), self.sizes]

    def edges(self) -> list[tuple[str, str]]:
        """(query stream, key stream) that may be blocked; it may refuse some with a `UserError`."""
        names = tuple(self.specs)
        key = repr(self.config), names
        if key not in self.subject.notes:
            component = self.build()
            pairs = [(q, k) for q in names for k in names if q != k] if component.supports_blocking else []
            self.subject.notes[key] = [edge for edge in pairs if self._accepts(component, edge)]
        return self.subject.notes[key]

    def _accepts(self, component: Any, edge: tuple[str, str]) -> bool:
        inputs = self._inputs(1, [edge])
        try:
            self.run(component, inputs)
        except UserError:
            return False
        return True

    def inputs(self, component: Any, seed: int) -> dict[str, Any]:
        """Random noisy streams, times, labels (the null label among them) and blocked edges."""
        return self._inputs(seed, self.edges())

    def _inputs(self, seed: int, edges: Sequence[tuple[str, str]]) -> dict[str, Any]:
        draws, batch, specs = self.generator(seed), self.sizes.batch, self.specs
        return {
            "noisy": {name: torch.randn(batch, *spec.shape, generator=draws) for name, spec in specs.items()},
            "times": {name: torch.rand(batch, generator=draws) for name in specs},
            "labels": torch.randint(0, CLASSES + 1, (batch,), generator=draws),
            "blocked": {edge: torch.rand(batch, generator=draws) < 0.5 for edge in edges},
        }

    def run(self, component: Any, inputs: Any) -> Denoised:
        """Predictions and the tokens after every block."""
        condition = Condition(labels=inputs["labels"], blocked=inputs["blocked"])
        return component(inputs["noisy"], inputs["times"], condition, tuple(range(1, self.depth(component) + 1)))

    def depth(self, component: Any) -> int:
        """Number of blocks, through the wrapper that torch.compile puts around a module too."""
        return int(getattr(component, "_orig_mod", component).depth)

    def cast(self, inputs: Any, dtype: torch.dtype) -> Any:
        """The streams in another dtype; times stay float32."""
        return inputs | {"noisy": cast(inputs["noisy"], dtype)}


def predict(case: BackboneCase, component: Any, inputs: Any) -> Streams:
    """The predicted clean streams."""
    with torch.no_grad():
        return case.run(component, inputs).clean


def other_values(case: BackboneCase, component: Any, inputs: Any, stream: str) -> Any:
    """The inputs with another noisy stream."""
    other = case.inputs(component, 7)["noisy"][stream]
    return inputs | {"noisy": inputs["noisy"] | {stream: other}}


@law(BackboneCase)
def predicts_every_stream(case: BackboneCase) -> None:
    """It predicts each of its streams, and nothing else, in the shape that came in."""
    component = case.build()
    inputs = case.inputs(component, 1)
    shapes = {name: tuple(x.shape) for name, x in inputs["noisy"].items()}
    clean = {name: tuple(x.shape) for name, x in case.run(component, inputs).clean.items()}
    require(clean == shapes, f"streams {shapes} became {clean}")


@law(BackboneCase)
def taps_are_as_declared(case: BackboneCase) -> None:
    """It hands out exactly the taps asked for, [b, n, width], and asking changes no prediction.

    Their positions are different cells of its grid.
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    condition = Condition(labels=inputs["labels"], blocked=inputs["blocked"])
    plain = component(inputs["noisy"], inputs["times"], condition)
    require(not plain.taps, f"taps {sorted(plain.taps)} came unasked")
    for wanted in ((1,), (component.depth,), tuple(range(1, component.depth + 1))):
        answer = component(inputs["noisy"], inputs["times"], condition, wanted)
        require(sorted(answer.taps) == sorted(wanted), f"asked for taps {wanted}, got {sorted(answer.taps)}")
        require_same(plain.clean, answer.clean, f"asking for the taps {wanted} changed the prediction")
        for number, tap in answer.taps.items():
            n = len(tap.positions)
            shape, expected = tuple(tap.tokens.shape), (case.sizes.batch, n, component.width)
            require(shape == expected, f"tap {number} has the shape {shape} instead of {expected}")
            cells = component.grid[0] * component.grid[1]
            inside = bool(((tap.positions >= 0) & (tap.positions < cells)).all())
            require(inside, f"tap {number} has positions outside of 0..{cells - 1}")
            require(len(tap.positions.unique()) == n, f"tap {number} names a position twice")


@law(BackboneCase)
def tap_k_follows_block_k(case: BackboneCase) -> None:
    """Tap k holds the tokens after block k, counted from 1.

    Each tap depends on more weights than the one before, and no block comes after the last.
    """
    component = case.build()
    answer = case.run(component, case.inputs(component, 1))
    parameters = dict(component.named_parameters())

    def reached(tensor: Tensor) -> set[str]:
        gradients: Any = torch.autograd.grad(
            tensor.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
        )
        return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}

    sets = [reached(answer.taps[k].tokens) for k in range(1, component.depth + 1)]
    for k in range(1, len(sets)):
        require(sets[k - 1] < sets[k], f"tap {k + 1} depends on no more weights than tap {k}")
    if len(sets) < 2:
        return
    block = sorted(tuple(parameters[name].shape) for name in sets[-1] - sets[-2])
    after = [tuple(parameters[name].shape) for name in reached(answer.clean[PIXELS]) - sets[-1]]
    fits = block and all(after.count(shape) >= block.count(shape) for shape in block)
    require(not fits, f"a whole block comes after tap {component.depth}, the last one: are blocks counted from 0?")


@law(BackboneCase)
def tokens_keep_their_place(case: BackboneCase) -> None:
    """A change in one place shows most at that place: tokens are row-major, none is lost or shifted.

    Changing a patch of the image (or a feature token) is looked for in the prediction and in the first tap.
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    rows, columns = component.grid
    before = case.run(component, inputs)
    for cell in {1, columns, rows * columns - 1}:
        for stream, spec in case.specs.items():
            if spec.grid is None and stream != PIXELS:
                continue
            mask = _cell(spec, component.grid, cell)
            noisy = inputs["noisy"] | {stream: inputs["noisy"][stream] * torch.where(mask, -2.0, 1.0)}
            after = case.run(component, inputs | {"noisy": noisy})
            change = (after.clean[stream] - before.clean[stream]).detach().abs().mean(0)
            strengths = [change[_cell(spec, component.grid, i)].mean() for i in range(rows * columns)]
            found = int(torch.stack(strengths).argmax())
            require(found == cell, f"a change of {stream} at cell {cell} shows most at cell {found} of its prediction")
            if stream == PIXELS:
                moved = (after.taps[1].tokens - before.taps[1].tokens).detach().abs().mean((0, 2))
                found = int(after.taps[1].positions[moved.argmax()])
                require(found == cell, f"a change of the image at cell {cell} shows most at position {found} of tap 1")


def _cell(spec: StreamSpec, grid: tuple[int, int], cell: int) -> Tensor:
    """Boolean mask, of the shape of one sample, of what lies in a cell of the grid."""
    mask = torch.zeros(spec.shape, dtype=torch.bool)
    if len(spec.shape) == 2:
        mask[cell] = True
        return mask
    high, wide = spec.shape[1] // grid[0], spec.shape[2] // grid[1]
    row, column = divmod(cell, grid[1])
    mask[:, row * high : (row + 1) * high, column * wide : (column + 1) * wide] = True
    return mask


@law(BackboneCase)
def gradients_reach_everything(case: BackboneCase) -> None:
    """Every trainable parameter and every noisy stream gets a gradient, finite and not zero."""
    component = case.build().train()
    inputs = case.inputs(component, 1)
    # what serves an edge alone rightly gets no gradient where that edge is blocked
    inputs["blocked"] = {edge: torch.zeros_like(rows) for edge, rows in inputs["blocked"].items()}
    noisy = {name: x.requires_grad_() for name, x in inputs["noisy"].items()}
    with torch.random.fork_rng(devices=[]):
        clean = case.run(component, inputs).clean
    torch.stack(
        [(x * torch.randn(x.shape, generator=case.generator(9))).sum() for x in clean.values()]
    ).sum().backward()
    for name, tensor in {**dict(component.named_parameters()), **noisy}.items():
        if tensor.requires_grad:
            require(tensor.grad is not None and tensor.grad.abs().sum() > 0, f"no gradient reaches {name}")
            require(tensor.grad is not None and torch.isfinite(tensor.grad).all(), f"{name} has a gradient not finite")


@law(BackboneCase)
def conditioning_is_used(case: BackboneCase) -> None:
    """Another label, the null label and another time each change the prediction of every stream in every row."""
    component = case.build()
    inputs = case.inputs(component, 1)
    inputs["labels"] = inputs["labels"] % CLASSES
    before = predict(case, component, inputs)
    null = torch.full_like(inputs["labels"], CLASSES)
    later = {name: 0.5 * t + 0.5 for name, t in inputs["times"].items()}
    changes = {
        "label": inputs | {"labels": (inputs["labels"] + 1) % CLASSES},
        "label null": inputs | {"labels": null},
        "time": inputs | {"times": later},
    }
    for what, changed in changes.items():
        for stream, x in predict(case, component, changed).items():
            same = (x - before[stream]).abs().flatten(1).amax(1) < 1e-6
            require(not same.any(), f"another {what} changes nothing in {stream} of row {int(same.int().argmax())}")
