"""Laws for the fit of adapters."""

import copy
from typing import Any, Final

import torch
from torch import Tensor

from vco.api import Adapter, Features
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.adapters import AdapterCase, Encoded, moved
from vco.testing.tensors import distance, no_ambient_draws, require_same

OFFSET: Final = 3000.0
"""A mean that is large beside the deviations."""


def _can_be_fitted(adapter: type[Adapter]) -> bool:
    return adapter.fit is not Adapter.fit


def _couples(adapter: Any) -> bool:
    return getattr(adapter, "couples_batch", False)


@law(AdapterCase, once=True, about=_can_be_fitted)
def fit_draws_nothing_ambient(case: AdapterCase) -> None:
    """fit() draws from no global random state and changes something where `needs_fit` says so."""
    component = case.build()
    before = copy.deepcopy(component.state_dict())
    with no_ambient_draws("fit"):
        component.fit(case.data((20,) * 3))
    changed = any(distance(before[name], tensor) > 0 for name, tensor in component.state_dict().items())
    require(changed or not component.needs_fit, "needs_fit is true, and fit() changes no parameter or buffer")


@law(AdapterCase, about=_can_be_fitted)
def fit_is_idempotent(case: AdapterCase) -> None:
    """Fitted a second time on the same data, it gives the same streams."""
    component = _fitted(case, (20,) * 3)
    once = case.run(component, case.inputs(component, 1)).value
    component.fit(case.data((20,) * 3))
    require_same(once, case.run(component, case.inputs(component, 1)).value, "a second fit")


@law(AdapterCase, about=_can_be_fitted)
def fit_ignores_order_and_batching(case: AdapterCase) -> None:
    """The same samples in another order and other batches give the same fit.

    Moments are accumulated in float64, which shows where means are large, and each sample counts the same, that of a
    last batch of one too.
    """
    for offset in (0.0, OFFSET):
        # an odd number: the mean of an even one may lie between two numbers of float32, and be rounded either way
        one, other = _fitted(case, (20, 20, 21), 0, offset), _fitted(case, (31, 17, 12, 1), 1, offset)
        inputs = case.inputs(one, 1)
        inputs = moved(inputs, offset)
        streams = case.run(one, inputs).value, case.run(other, inputs).value
        require_same(*streams, f"another order of data whose mean is near {offset:g}")


@law(AdapterCase, once=True, about=lambda adapter: _can_be_fitted(adapter) or _couples(adapter))
def streams_are_centred(case: AdapterCase) -> None:
    """Streams have means below their spread, as the noise has mean 0 to which they are blended.

    By default, on the data that it was fitted on; only for adapters that need a fit or normalise over the batch.
    """
    component = case.build()
    if not component.needs_fit and not _couples(component):
        does_not_apply("it needs no fit")
    if component.needs_fit:
        component.fit(case.data((60,)))
    (_, features) = next(case.data((60,)))
    for name, value in component.train()(features).value.items():
        means, spread = value.detach().mean((0, 1)), value.detach().std((0, 1))
        ratio = (means.square().mean() / spread.square().mean()).sqrt().item()
        require(ratio < 1, f"{name} has means {ratio:.1f} times as large as its spread")


@law(AdapterCase, about=_can_be_fitted)
def fit_keeps_what_varies(case: AdapterCase) -> None:
    """Fitted on features that vary in three directions alone, its streams still tell where they are.

    Measured by how well the features can be drawn linearly from the stream; only for adapters that need a fit.
    """
    component = case.build()
    if not component.needs_fit:
        does_not_apply("it needs no fit")
    draws = case.generator(41)
    features: Encoded = {}
    low: dict[int, Tensor] = {}
    for name, spec in case.specs.items():
        (n, d) = spec.tokens
        # on one grid the encoders look at the same three directions
        low.setdefault(n, torch.randn(60, n, 3, generator=draws))
        tokens = 5 + low[n] @ torch.randn(3, d, generator=draws) + 0.02 * torch.randn(60, n, d, generator=draws)
        pooled = torch.randn(60, spec.pooled, generator=draws)
        features[name] = Features(tokens=tokens, grid=spec.grid, pooled=pooled)
    images = torch.rand(60, *case.image.shape, generator=draws)
    component.fit(iter([(images, features)]))
    for name, value in component(features).value.items():
        n = value.shape[1]
        if n not in low or value.shape[2] < 3:
            does_not_apply(f"{name} is too small")
        # at each position by itself, as adapters may treat positions differently
        errors: list[Tensor] = []
        for position in range(n):
            seen = torch.cat([value[:, position].detach().double(), torch.ones(60, 1, dtype=torch.float64)], 1)
            wanted = low[n][:, position].double()
            errors.append((wanted - seen @ torch.linalg.lstsq(seen, wanted).solution).square().mean())
        lost = (torch.stack(errors).mean() / low[n].double().var()).item()
        require(lost < 0.05, f"{name} has lost {lost:.0%} of the variance")


@law(AdapterCase, about=_can_be_fitted)
def fit_survives_large_means(case: AdapterCase) -> None:
    """A large common offset of the features changes nothing for an adapter that removes means."""
    component = case.build()
    if not component.needs_fit:
        does_not_apply("it needs no fit")
    shifted, inputs = case.build(), case.inputs(component, 1)
    component.fit(case.data((20,) * 3))
    shifted.fit(case.data((20,) * 3, 0, OFFSET))
    plain = case.run(component, inputs).value
    later = case.run(shifted, moved(inputs, OFFSET)).value
    if any(x.abs().mean() > 100 for x in later.values()):
        does_not_apply("it keeps means")
    # float32 tokens near 3,000 are exact to 1e-4, which is their share of a standard deviation
    require_same(plain, later, f"features shifted by {OFFSET:g}", 5e-3)


@law(AdapterCase, about=_can_be_fitted)
def fit_agrees_with_training(case: AdapterCase) -> None:
    """Fitted, it gives the streams that training mode finds on the same data, unless that is random."""
    component = case.build()
    if not component.needs_fit:
        does_not_apply("it needs no fit")
    component.fit(case.data((20,) * 3))
    (_, features) = next(case.data((60,)))
    found = component(features).value
    with torch.random.fork_rng(devices=[]):
        first, second = (component.train()(features).value for _ in range(2))
    if all(torch.equal(first[name], second[name]) for name in first):
        require_same(found, first, "training mode on the data of the fit", 0.02)


@law(AdapterCase, about=_can_be_fitted)
def fitted_state_round_trip(case: AdapterCase) -> None:
    """What fit() has found is in the state dict: an adapter that was never fitted can load it."""
    one, other = _fitted(case, (20,) * 3), case.build()
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    inputs = case.inputs(one, 1)
    require_same(case.run(one, inputs).value, case.run(other, inputs).value, "after loading a fitted state", 0.0)


def _fitted(case: AdapterCase, sizes: tuple[int, ...], order: int = 0, offset: float = 0.0) -> Any:
    component = case.build()
    component.fit(case.data(sizes, order, offset))
    return component
