"""Laws for adapters."""

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import Adapted, Adapter, Features, StreamSpec
from vco.testing.case import StreamCase
from vco.testing.law import law, require
from vco.testing.tensors import cast, require_same

SAMPLES = 60


@attrs.frozen(kw_only=True)
class AdapterCase(StreamCase):
    """An adapter of random features whose channels have means and variances of their own."""

    kind = "adapters"

    def construct(self) -> Adapter:
        """The adapter of tokens on a grid."""
        return self.subject.component(self.config, features=self.features_spec)

    @property
    def features_spec(self) -> StreamSpec:
        """What the source in front of it would say; at some sizes its pooled vector is wider than its tokens."""
        grid, width = (self.sizes.rows, self.sizes.columns), self.sizes.width
        pooled = width + 1 if self.sizes.channels == 1 else None
        return StreamSpec(shape=(grid[0] * grid[1], width), grid=grid, pooled=pooled)

    def features(self, batch: int, seed: int) -> Features:
        """Correlated tokens with means and variances of their own in every channel and at every position."""
        draws = self.generator(seed)
        (n, d), fixed = self.features_spec.shape, self.generator(77)
        mixing = torch.randn(d, d, generator=fixed) * d**-0.5 + torch.diag(torch.linspace(3, 1, d))
        offset = 9 * torch.randn(d, generator=fixed) + 2 * torch.randn(n, d, generator=fixed)
        tokens = torch.randn(batch, n, d, generator=draws) @ mixing + offset
        pooled = torch.randn(batch, self.features_spec.pooled or d, generator=draws)
        return Features(tokens=tokens, grid=self.features_spec.grid or (1, n), pooled=pooled)

    def inputs(self, component: Any, seed: int) -> dict[str, Tensor]:
        """A batch of features."""
        features = self.features(self.sizes.batch, seed)
        return {"tokens": features.tokens, "pooled": features.pooled}

    def run(self, component: Any, inputs: Any) -> Adapted:
        """The streams."""
        grid = self.features_spec.grid or (1, 1)
        return component(Features(tokens=inputs["tokens"], grid=grid, pooled=inputs["pooled"]))

    def cast(self, inputs: Any, dtype: torch.dtype) -> Any:
        """The features in another dtype; an adapter's own losses are scalars of any."""
        return cast(inputs, dtype)

    def data(self, sizes: tuple[int, ...], order: int = 0, offset: float = 0.0) -> Iterator[tuple[Tensor, Features]]:
        """The same samples in batches of these sizes, in another order, all tokens moved; can be read once."""
        features = self.features(sum(sizes), 31)
        shape = (sum(sizes), 3, self.sizes.rows * 2, self.sizes.columns * 2)
        images = torch.rand(shape, generator=self.generator(32)) * 1.6 - 0.9
        perm = torch.randperm(sum(sizes), generator=self.generator(33)) if order else torch.arange(sum(sizes))
        for rows in perm.split(list(sizes)):
            part = Features(tokens=features.tokens[rows] + offset, grid=features.grid, pooled=features.pooled[rows])
            yield images[rows], part


@law(AdapterCase)
def spec_equals_output(case: AdapterCase) -> None:
    """Value and target have exactly the streams and shapes that specs() promises."""
    component = case.build()
    specs = component.specs()
    for mode in (False, True):
        adapted = case.run(component.train(mode), case.inputs(component, 1))
        for part, streams in (("value", adapted.value), ("target", adapted.target)):
            shapes = {name: tuple(x.shape[1:]) for name, x in streams.items()}
            require(shapes == {name: spec.shape for name, spec in specs.items()}, f"{part} has {shapes}, not {specs}")
            wrong = [name for name, x in streams.items() if len(x) != case.sizes.batch]
            require(not wrong, f"{part} has another batch size in {wrong}")
    for name, spec in specs.items():
        require(spec.noise_scale > 0, f"{name} has the noise scale {spec.noise_scale}")
        cells = spec.grid[0] * spec.grid[1] if spec.grid else spec.shape[0]
        require(cells == spec.shape[0], f"{name}: the grid {spec.grid} has not {spec.shape[0]} cells")


@law(AdapterCase)
def target_equals_value(case: AdapterCase) -> None:
    """The target has the numbers of the value: what is regressed is what was noised."""
    component = case.build()
    for mode in (False, True):
        adapted = case.run(component.train(mode), case.inputs(component, 1))
        require_same(adapted.value, adapted.target, "value and target", 0.0)


@law(AdapterCase, once=True)
def target_carries_no_gradient(case: AdapterCase) -> None:
    """By default no gradient flows from the target into the adapter's own weights, which could make it trivial."""
    component = case.build().train()
    adapted = case.run(component, case.inputs(component, 1))
    for name, x in adapted.target.items():
        require(not x.requires_grad, f"the target of {name} carries a gradient")


@law(AdapterCase)
def gradients_reach_its_weights(case: AdapterCase) -> None:
    """Every trainable weight gets a finite gradient from the value or from the adapter's own losses."""
    component = case.build().train()
    trained = {name: p for name, p in component.named_parameters() if p.requires_grad}
    if not trained:
        return
    adapted = case.run(component, case.inputs(component, 1))
    total = sum(adapted.losses.values(), torch.zeros(()))
    for x in adapted.value.values():
        total = total + (x * torch.randn(x.shape, generator=case.generator(9))).sum()
    total.backward()
    for name, parameter in trained.items():
        reached = parameter.grad is not None and parameter.grad.abs().sum() > 0
        require(reached, f"no gradient reaches {name}")
        require(parameter.grad is None or torch.isfinite(parameter.grad).all(), f"{name} has a gradient not finite")


@law(AdapterCase)
def losses_are_scalars(case: AdapterCase) -> None:
    """Its own losses, in training mode, are finite scalars that are not negative."""
    component = case.build().train()
    losses = case.run(component, case.inputs(component, 1)).losses
    for name, loss in losses.items():
        require(loss.ndim == 0 and torch.isfinite(loss) and loss >= 0, f"the loss {name} is {loss}")


@law(AdapterCase)
def features_matter(case: AdapterCase) -> None:
    """Every token of the features changes the value, and tokens keep their order where the grid is kept."""
    component = case.build()
    inputs = case.inputs(component, 1)
    before = case.run(component, inputs).value
    n = case.features_spec.shape[0]
    for position in (0, 1, n - 1):
        tokens = inputs["tokens"].clone()
        tokens[:, position] += torch.randn(tokens[:, position].shape, generator=case.generator(5))
        after = case.run(component, inputs | {"tokens": tokens}).value
        for name, spec in component.specs().items():
            if spec.grid == case.features_spec.grid:
                moved = (after[name] - before[name]).abs().mean((0, 2))
                require(moved.max() > 0, f"a change of token {position} changes nothing in {name}")
                found = int(moved.argmax())
                require(found == position, f"a change of token {position} shows most in token {found} of {name}")
