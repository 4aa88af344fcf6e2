"""Laws for adapters."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import IMAGE, Adapted, Adapter, AdapterSetting, Features, FeatureSpec, ReadsFeatures, StreamSpec
from vco.testing.case import StreamCase, TrainedCase
from vco.testing.law import law, require
from vco.testing.options import without_large_numbers
from vco.testing.shapes import encoders
from vco.testing.subject import Subject
from vco.testing.tensors import cast, require_same

Encoded = dict[str, Features]
"""Encoder -> what it says about a batch."""


@attrs.frozen(kw_only=True)
class AdapterCase(TrainedCase, StreamCase):
    """An adapter of random features of two encoders, whose channels have means and variances of their own."""

    kind = "adapters"

    @classmethod
    def small(cls, subject: Subject) -> Any:
        """Large numbers made small."""
        return without_large_numbers(subject.config, subject.contract, subject.options)

    def make(self) -> Adapter:
        """The adapter of tokens on a grid."""
        return self.subject.component(self.config, AdapterSetting(features=self.specs, image=self.image))

    @property
    def specs(self) -> dict[str, FeatureSpec]:
        """What the encoders in front of it would say."""
        return encoders(self.sizes, self.subject.shapes)

    @property
    def image(self) -> StreamSpec:
        """The image stream."""
        own = StreamSpec(shape=(self.sizes.channels, 2 * self.sizes.rows, 2 * self.sizes.columns))
        return self.subject.shapes.streams.get(IMAGE, own)

    def features(self, batch: int, seed: int, offset: float = 0.0) -> Encoded:
        """Correlated tokens with means and variances of their own in every channel and at every position."""
        draws, found = self.generator(seed), Encoded()
        for name, spec in self.specs.items():
            (n, d), fixed = spec.tokens, self.generator(77)
            mixing = torch.randn(d, d, generator=fixed) * d**-0.5 + torch.diag(torch.linspace(3, 1, d))
            means = 9 * torch.randn(d, generator=fixed) + 2 * torch.randn(n, d, generator=fixed) + offset
            tokens = torch.randn(batch, n, d, generator=draws) @ mixing + means
            pooled = torch.randn(batch, spec.pooled, generator=draws)
            found[name] = Features(tokens=tokens, grid=spec.grid, pooled=pooled)
        return found

    def inputs(self, component: Any, seed: int) -> dict[str, dict[str, Tensor]]:
        """A batch of features."""
        found = self.features(self.sizes.batch, seed)
        return {name: {"tokens": of.tokens, "pooled": of.pooled} for name, of in found.items()}

    def run(self, component: Any, inputs: Any) -> Adapted:
        """The streams."""
        return component({name: Features(grid=self.specs[name].grid, **parts) for name, parts in inputs.items()})

    def cast(self, inputs: Any, dtype: torch.dtype) -> Any:
        """The features in another dtype; an adapter's own losses are scalars of any."""
        return cast(inputs, dtype)

    def data(self, sizes: tuple[int, ...], order: int = 0, offset: float = 0.0) -> Iterator[tuple[Tensor, Encoded]]:
        """The same samples in batches of these sizes, in another order, all tokens moved; can be read once."""
        features = self.features(sum(sizes), 31, offset)
        images = torch.rand(sum(sizes), *self.image.shape, generator=self.generator(32)) * 1.6 - 0.9
        perm = torch.randperm(sum(sizes), generator=self.generator(33)) if order else torch.arange(sum(sizes))
        for rows in perm.split(list(sizes)):
            yield images[rows], {name: _rows_of(of, rows) for name, of in features.items()}


def _rows_of(features: Features, rows: Tensor) -> Features:
    return Features(tokens=features.tokens[rows], grid=features.grid, pooled=features.pooled[rows])


def moved(inputs: Mapping[str, Mapping[str, Tensor]], offset: float) -> dict[str, dict[str, Tensor]]:
    """Inputs whose tokens are all moved."""
    return {name: {**parts, "tokens": parts["tokens"] + offset} for name, parts in inputs.items()}


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
    """Every token of an encoder that it reads changes the value, and tokens keep their order where the grid is kept."""
    component = case.build()
    inputs = case.inputs(component, 1)
    before = case.run(component, inputs).value
    read = [name for name in inputs if _changes(case, component, inputs, name)]
    require(read, "the features of no encoder change the value")
    for name in read:
        spec = case.specs[name]
        for position in (0, 1, spec.tokens[0] - 1):
            tokens = inputs[name]["tokens"].clone()
            tokens[:, position] += torch.randn(tokens[:, position].shape, generator=case.generator(5))
            after = case.run(component, inputs | {name: inputs[name] | {"tokens": tokens}}).value
            for stream, made in component.specs().items():
                if made.grid == spec.grid and made.shape[0] == spec.tokens[0]:
                    change = (after[stream] - before[stream]).abs().mean((0, 2))
                    require(change.max() > 0, f"a change of token {position} of {name} changes nothing in {stream}")
                    found = int(change.argmax())
                    require(found == position, f"a change of token {position} shows most in token {found} of {stream}")


def _changes(case: AdapterCase, component: Any, inputs: Any, name: str) -> bool:
    """Whether other features of an encoder change the value."""
    other = case.inputs(component, 2)[name]
    before, after = case.run(component, inputs).value, case.run(component, inputs | {name: other}).value
    return any(not torch.equal(before[stream], after[stream]) for stream in before)


@law(AdapterCase, about=lambda adapter: issubclass(adapter.Config, ReadsFeatures))
def reads_the_encoder_that_is_named(case: AdapterCase) -> None:
    """With the option `features` it reads the encoder that this names, by default the first, and no other."""
    for named in ("", *case.specs):
        other = attrs.evolve(case, config=attrs.evolve(case.config, features=named))
        component = other.build()
        inputs = other.inputs(component, 1)
        read = [name for name in inputs if _changes(other, component, inputs, name)]
        expected = named or next(iter(case.specs))
        fits = read == [expected] or (case.varied and not read)  # other options may make it read none
        require(fits, f"with features={named!r} it reads {', '.join(read) or 'none'} instead of {expected}")
