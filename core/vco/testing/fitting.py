"""Laws for the fit of adapters."""

import copy
from typing import Any

import torch
from torch import Tensor

from vco.api import Features
from vco.testing.adapter import AdapterCase
from vco.testing.law import does_not_apply, law, require
from vco.testing.tensors import distance, no_ambient_draws, require_same


@law(AdapterCase, once=True)
def fit_draws_nothing_ambient(case: AdapterCase) -> None:
    """fit() draws from no global random state and changes something where `needs_fit` says so."""
    component = case.build()
    before = copy.deepcopy(component.state_dict())
    with no_ambient_draws("fit"):
        component.fit(case.data((20,) * 3))
    changed = any(distance(before[name], tensor) > 0 for name, tensor in component.state_dict().items())
    require(changed or not component.needs_fit, "needs_fit is true, and fit() changes no parameter or buffer")


@law(AdapterCase)
def fit_is_idempotent(case: AdapterCase) -> None:
    """Fitted a second time on the same data, it gives the same streams."""
    component = _fitted(case, (20,) * 3)
    once = case.run(component, case.inputs(component, 1)).value
    component.fit(case.data((20,) * 3))
    require_same(once, case.run(component, case.inputs(component, 1)).value, "a second fit")


@law(AdapterCase)
def fit_ignores_order_and_batching(case: AdapterCase) -> None:
    """The same samples in another order and other batches give the same fit.

    Moments are accumulated in float64, and each sample counts the same, that of a last batch of one too.
    """
    one, other = _fitted(case, (20,) * 3), _fitted(case, (31, 17, 11, 1), order=1)
    inputs = case.inputs(one, 1)
    # directions of a covariance of 60 samples move by rounding times the inverse gap of its eigenvalues
    require_same(case.run(one, inputs).value, case.run(other, inputs).value, "another order of the data", 1e-3)


@law(AdapterCase, once=True)
def streams_are_centred(case: AdapterCase) -> None:
    """Streams have means below their spread, as the noise has mean 0 to which they are blended.

    On the data that it was fitted on; only for adapters that need a fit or normalise over the batch.
    """
    component = case.build()
    if not component.needs_fit and not getattr(component, "couples_batch", False):
        does_not_apply("it takes features as they are")
    if component.needs_fit:
        component.fit(case.data((60,)))
    (_, features) = next(case.data((60,)))
    for name, value in component.train()(features).value.items():
        means, spread = value.detach().mean((0, 1)), value.detach().std((0, 1))
        ratio = (means.square().mean() / spread.square().mean()).sqrt().item()
        require(ratio < 1, f"{name} has means {ratio:.1f} times as large as its spread")


@law(AdapterCase, once=True)
def fit_keeps_what_varies(case: AdapterCase) -> None:
    """Fitted on features that vary in three directions alone, its streams still tell where they are.

    Measured by how well the features can be drawn linearly from the stream; only for adapters that need a fit.
    """
    component = case.build()
    (n, d), grid = case.features_spec.shape, case.features_spec.grid
    if not component.needs_fit:
        does_not_apply("it needs no fit")
    draws = case.generator(41)
    low = torch.randn(60, n, 3, generator=draws) @ torch.randn(3, d, generator=draws)
    tokens = 5 + low + 0.02 * torch.randn(60, n, d, generator=draws)
    images = torch.rand(60, 3, case.sizes.rows * 2, case.sizes.columns * 2, generator=draws)
    features = Features(tokens=tokens, grid=grid or (1, n), pooled=torch.randn(60, d, generator=draws))
    component.fit(iter([(images, features)]))
    for name, value in component(features).value.items():
        if value.shape[1] != n or value.shape[2] < 3:
            does_not_apply(f"{name} is too small")
        # at each position by itself, as adapters may treat positions differently
        errors: list[Tensor] = []
        for position in range(n):
            seen = torch.cat([value[:, position].detach().double(), torch.ones(60, 1, dtype=torch.float64)], 1)
            wanted = low[:, position].double()
            errors.append((wanted - seen @ torch.linalg.lstsq(seen, wanted).solution).square().mean())
        lost = (torch.stack(errors).mean() / low.double().var()).item()
        require(lost < 0.05, f"{name} has lost {lost:.0%} of the variance")


@law(AdapterCase)
def fit_survives_large_means(case: AdapterCase) -> None:
    """A large common offset of the features changes nothing, if it removes means: no squares cancel."""
    component = case.build()
    if not component.needs_fit:
        does_not_apply("it needs no fit")
    shifted, inputs, offset = case.build(), case.inputs(component, 1), 3000.0
    component.fit(case.data((20,) * 3))
    moved = ((i, Features(tokens=f.tokens + offset, grid=f.grid, pooled=f.pooled)) for i, f in case.data((20,) * 3))
    shifted.fit(moved)
    plain = case.run(component, inputs).value
    later = case.run(shifted, inputs | {"tokens": inputs["tokens"] + offset}).value
    if any(x.abs().mean() > 100 for x in later.values()):
        does_not_apply("it keeps means")
    # float32 tokens near 3,000 are exact to 1e-4, which is their share of a standard deviation
    require_same(plain, later, f"features shifted by {offset:g}", 5e-3)


@law(AdapterCase)
def fitted_state_round_trip(case: AdapterCase) -> None:
    """What fit() has found is in the state dict: an adapter that was never fitted can load it."""
    one, other = _fitted(case, (20,) * 3), case.build()
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    inputs = case.inputs(one, 1)
    require_same(case.run(one, inputs).value, case.run(other, inputs).value, "after loading a fitted state", 0.0)


def _fitted(case: AdapterCase, sizes: tuple[int, ...], order: int = 0) -> Any:
    component = case.build()
    component.fit(case.data(sizes, order))
    return component
