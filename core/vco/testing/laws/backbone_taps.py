"""Laws for the hidden tokens that backbones hand out, and for where their tokens are."""

from typing import Any

import torch
from torch import Tensor

from vco.api import IMAGE, Denoised, StreamSpec, Tap
from vco.testing.law import law, require
from vco.testing.laws.backbones import BackboneCase, predicted
from vco.testing.tensors import require_same


@law(BackboneCase)
def taps_are_as_declared(case: BackboneCase) -> None:
    """It hands out exactly the taps asked for, [b, n, width], and asking changes no prediction.

    Their positions are different cells of its grid, the same for all samples [n] or of each sample [b, n].
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    plain = case.ask(component, inputs)
    require(not plain.taps, f"taps {sorted(plain.taps)} came unasked")
    for wanted in ((1,), (component.depth,), tuple(range(1, component.depth + 1))):
        answer = case.ask(component, inputs, wanted)
        require(sorted(answer.taps) == sorted(wanted), f"asked for taps {wanted}, got {sorted(answer.taps)}")
        require_same(predicted(plain), predicted(answer), f"asking for the taps {wanted} changed the prediction")
        for number, tap in answer.taps.items():
            require_valid_tap(tap, number, case, component)


def require_valid_tap(tap: Tap, number: int, case: BackboneCase, component: Any) -> None:
    """Raises `ViolationError` if a tap has another shape than the contract says, or its positions are no cells."""
    batch, n = case.sizes.batch, tap.positions.shape[-1]
    shape, expected = tuple(tap.tokens.shape), (batch, n, component.width)
    require(shape == expected, f"tap {number} has the shape {shape} instead of {expected}")
    shapes = {(n,), (batch, n)}
    found = tuple(tap.positions.shape)
    require(found in shapes, f"tap {number} has positions of the shape {found} instead of one of {shapes}")
    cells = component.grid[0] * component.grid[1]
    inside = bool(((tap.positions >= 0) & (tap.positions < cells)).all())
    require(inside, f"tap {number} has positions outside of 0..{cells - 1}")
    distinct = all(len(row.unique()) == n for row in tap.positions.reshape(-1, n))
    require(distinct, f"tap {number} names a position twice")


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
    after = [tuple(parameters[name].shape) for name in reached(predicted(answer)[IMAGE]) - sets[-1]]
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
    for place in {1, columns, rows * columns - 1} & set(range(rows * columns)):
        for stream, spec in case.specs.items():
            if spec.grid not in (None, component.grid) or (spec.grid is None and stream != IMAGE):
                continue
            mask = cell(spec, component.grid, place)
            noisy = inputs["noisy"] | {stream: inputs["noisy"][stream] * torch.where(mask, -2.0, 1.0)}
            after = case.run(component, inputs | {"noisy": noisy})
            change = (predicted(after)[stream] - predicted(before)[stream]).detach().abs().mean(0)
            strengths = [change[cell(spec, component.grid, i)].mean() for i in range(rows * columns)]
            found = int(torch.stack(strengths).argmax())
            require(
                found == place, f"a change of {stream} at cell {place} shows most at cell {found} of its prediction"
            )
            if stream == IMAGE:
                found = _most_changed(before, after, rows * columns)
                require(
                    found == place, f"a change of the image at cell {place} shows most at position {found} of tap 1"
                )


def _most_changed(before: Denoised, after: Denoised, cells: int) -> int:
    """The position whose tokens in tap 1 have changed most."""
    one, other = before.taps[1], after.taps[1]
    moved = (other.tokens - one.tokens).detach().abs().mean(2)
    places = one.positions.expand(moved.shape)
    return int(torch.zeros(len(moved), cells).scatter(1, places, moved).mean(0).argmax())


def cell(spec: StreamSpec, grid: tuple[int, int], place: int) -> Tensor:
    """Boolean mask, of the shape of one sample, of what lies in a cell of the grid."""
    mask = torch.zeros(spec.shape, dtype=torch.bool)
    if len(spec.shape) == 2:
        mask[place] = True
        return mask
    high, wide = spec.shape[1] // grid[0], spec.shape[2] // grid[1]
    row, column = divmod(place, grid[1])
    mask[:, row * high : (row + 1) * high, column * wide : (column + 1) * wide] = True
    return mask
