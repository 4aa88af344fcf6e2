"""Laws for backbones: what they answer, and what they are told."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from vco.api import (
    FEATURES,
    IMAGE,
    Backbone,
    BackboneSetting,
    Condition,
    Denoised,
    FeatureSpec,
    Streams,
    StreamSpec,
    UserError,
)
from vco.testing.case import StreamCase, TrainedCase
from vco.testing.law import law, require
from vco.testing.laws.backbone_sizes import made_small
from vco.testing.shapes import encoders
from vco.testing.sizes import FIXED
from vco.testing.subject import Subject
from vco.testing.tensors import cast, leaves

CLASSES: Final = 4
PATCHES: Final = (2, 1, 4, 8, 16, 3, 5, 6, 7, 14, 32)
"""Sides of a patch that are tried until the network's grid is the wanted one."""


@attrs.frozen(kw_only=True)
class BackboneCase(TrainedCase, StreamCase):
    """A small network on streams that fit it."""

    kind = "backbones"

    until: bool = False
    """Whether the run tells it the time that a step goes to."""

    @classmethod
    def small(cls, subject: Subject) -> Any:
        """Few blocks of small width, whatever the options are called that say so."""
        return made_small(subject, lambda config: cls(subject=subject, config=config, sizes=FIXED[0]).make())

    @classmethod
    def situations(cls, subject: Subject) -> Sequence[Mapping[str, Any]]:
        """Without and, if it supports that, with the time that a step goes to."""
        return ({}, {"until": True}) if subject.component.supports_until else ({},)

    @property
    def _key(self) -> tuple[Any, ...]:
        return repr(self.config), self.sizes, self.until

    def make(self) -> Backbone:
        """The network on the first streams that it accepts; best on those whose grid is the size's."""
        notes, refusal, second_best = self.subject.notes, None, None
        for streams in [notes[self._key]] if self._key in notes else self._offers():
            try:
                component: Backbone = self.subject.component(self.config, self.setting(streams))
            except UserError as error:
                refusal = refusal or error
                continue
            if self._key in notes or component.grid == self._grid(streams):
                notes[self._key] = streams
                return component
            second_best = second_best or (streams, component)
        if second_best is None:
            assert refusal is not None
            raise refusal
        notes[self._key], component = second_best
        return component

    def setting(self, streams: Mapping[str, StreamSpec]) -> BackboneSetting:
        """What it is told of a run with these streams."""
        component = self.subject.component
        features: Mapping[str, FeatureSpec] = {}
        if component.needs_features or len(streams) > 1:
            features = encoders(self.sizes, self.subject.shapes)
        return BackboneSetting(streams=streams, num_classes=CLASSES, features=features, until=self.until)

    def _offers(self) -> Iterator[dict[str, StreamSpec]]:
        """Streams that may suit it: those that its author gave, the others on one grid with them."""
        component = self.subject.component
        names = tuple(dict.fromkeys((IMAGE, *component.streams)))
        for columns in dict.fromkeys((self.sizes.columns, self.sizes.rows)):
            for patch in PATCHES:
                for chosen in dict.fromkeys(((*names, *component.optional_streams), names)):
                    yield {name: self._spec(name, patch, (self.sizes.rows, columns)) for name in dict.fromkeys(chosen)}

    def _spec(self, name: str, patch: int, grid: tuple[int, int]) -> StreamSpec:
        given = self.subject.shapes.streams
        if name in given:
            return given[name]
        if IMAGE in given:
            grid = (given[IMAGE].shape[1] // patch, given[IMAGE].shape[2] // patch)
        else:
            grid = next((spec.grid for spec in given.values() if spec.grid is not None), grid)
        if name == IMAGE:
            return StreamSpec(shape=(self.sizes.channels, grid[0] * patch, grid[1] * patch))
        if name == FEATURES:
            return StreamSpec(shape=(grid[0] * grid[1], self.sizes.width), grid=grid)
        return StreamSpec(shape=(1, self.sizes.width))

    def _grid(self, streams: Mapping[str, StreamSpec]) -> tuple[int, int]:
        """The grid that tokens of the image should have."""
        grids = [spec.grid for spec in streams.values() if spec.grid is not None]
        return grids[0] if grids else (self.sizes.rows, self.sizes.columns)

    @property
    def specs(self) -> Mapping[str, StreamSpec]:
        """The streams that the network was constructed with."""
        return self.subject.notes[self._key]

    def edges(self) -> list[tuple[str, str]]:
        """(query stream, key stream) that may be blocked; it may refuse some with a `UserError`."""
        names = tuple(self.specs)
        key = ("edges", repr(self.config), self.until, names)
        if key not in self.subject.notes:
            component = self.build()
            pairs = [(q, k) for q in names for k in names if q != k] if component.supports_blocking else []
            self.subject.notes[key] = [edge for edge in pairs if self._accepts(component, edge)]
        return self.subject.notes[key]

    def _accepts(self, component: Any, edge: tuple[str, str]) -> bool:
        try:
            self.run(component, self._inputs(component, 1, [edge]))
        except UserError:
            return False
        return True

    def inputs(self, component: Any, seed: int) -> dict[str, Any]:
        """Random noisy streams, times, labels (the null label among them), blocked edges, and the draws it asks for."""
        return self._inputs(component, seed, self.edges())

    def _inputs(self, component: Any, seed: int, edges: Sequence[tuple[str, str]]) -> dict[str, Any]:
        draws, batch, specs = self.generator(seed), self.sizes.batch, self.specs
        inputs: dict[str, Any] = {
            "noisy": {name: torch.randn(batch, *spec.shape, generator=draws) for name, spec in specs.items()},
            "times": {name: torch.rand(batch, generator=draws) for name in specs},
            "labels": torch.randint(0, CLASSES + 1, (batch,), generator=draws),
            "blocked": {edge: torch.rand(batch, generator=draws) < 0.5 for edge in edges},
            "until": {},
        }
        if self.until:
            inputs["until"] = {
                name: t + (1 - t) * torch.rand(batch, generator=draws) for name, t in inputs["times"].items()
            }
        wanted = original(component).draws
        inputs["draws"] = {name: torch.rand(batch, *shape, generator=draws) for name, shape in wanted.items()}
        return inputs

    def run(self, component: Any, inputs: Any) -> Denoised:
        """Predictions and the tokens after every block."""
        return self.ask(component, inputs, tuple(range(1, original(component).depth + 1)))

    def ask(self, component: Any, inputs: Any, taps: tuple[int, ...] = ()) -> Denoised:
        """The network's answer; the random numbers that it wants are handed over in training alone."""
        condition = Condition(
            labels=inputs["labels"],
            blocked=inputs["blocked"],
            context=inputs["draws"] if original(component).training else {},
            until=inputs["until"],
        )
        return component(inputs["noisy"], inputs["times"], condition, taps)

    def cast(self, inputs: Any, dtype: torch.dtype) -> Any:
        """The streams in another dtype; times stay float32."""
        return inputs | {"noisy": cast(inputs["noisy"], dtype)}


def original(component: Any) -> Any:
    """The module in the wrapper that torch.compile puts around it."""
    return getattr(component, "_orig_mod", component)


def predicted(answer: Denoised) -> Streams:
    """What a network predicts of every stream: the clean one or the velocity."""
    return {**answer.clean, **answer.velocity}


def predict(case: BackboneCase, component: Any, inputs: Any) -> Streams:
    """What the network predicts of every stream."""
    with torch.no_grad():
        return predicted(case.run(component, inputs))


def other_values(case: BackboneCase, component: Any, inputs: Any, stream: str) -> Any:
    """The inputs with another noisy stream."""
    other = case.inputs(component, 7)["noisy"][stream]
    return inputs | {"noisy": inputs["noisy"] | {stream: other}}


@law(BackboneCase)
def predicts_every_stream(case: BackboneCase) -> None:
    """For each of its streams it gives either the clean prediction or the velocity, in the shape that came in."""
    component = case.build()
    inputs = case.inputs(component, 1)
    answer = case.run(component, inputs)
    twice = sorted(answer.clean.keys() & answer.velocity.keys())
    require(not twice, f"both the clean prediction and the velocity of {', '.join(twice)} are given")
    shapes = {name: tuple(x.shape) for name, x in inputs["noisy"].items()}
    found = {name: tuple(x.shape) for name, x in predicted(answer).items()}
    require(found == shapes, f"streams {shapes} became {found}")


@law(BackboneCase)
def gradients_reach_everything(case: BackboneCase) -> None:
    """Every trainable parameter and every noisy stream gets a gradient, finite and not zero."""
    component = case.build().train()
    inputs = case.inputs(component, 1)
    # what serves an edge alone rightly gets no gradient where that edge is blocked
    inputs["blocked"] = {edge: torch.zeros_like(rows) for edge, rows in inputs["blocked"].items()}
    noisy = {name: x.requires_grad_() for name, x in inputs["noisy"].items()}
    with torch.random.fork_rng(devices=[]):
        answer = case.run(component, inputs)
    handed_out = [*predicted(answer).values(), *(x for x in answer.context.values() if x.requires_grad)]
    torch.stack([(x * torch.randn(x.shape, generator=case.generator(9))).sum() for x in handed_out]).sum().backward()
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
    changes = {
        "label": inputs | {"labels": (inputs["labels"] + 1) % CLASSES},
        "label null": inputs | {"labels": torch.full_like(inputs["labels"], CLASSES)},
        "time": inputs | {"times": {name: 0.5 * t + 0.5 for name, t in inputs["times"].items()}},
    }
    for what, changed in changes.items():
        require_other_rows(before, predict(case, component, changed), f"another {what}")


def require_other_rows(before: Streams, after: Streams, what: str) -> None:
    """Raises `ViolationError` if a row of a stream's prediction is what it was."""
    for stream, x in after.items():
        same = (x - before[stream]).abs().flatten(1).amax(1) < 1e-6
        require(not same.any(), f"{what} changes nothing in {stream} of row {int(same.int().argmax())}")


@law(BackboneCase)
def takes_its_own_context_back(case: BackboneCase) -> None:
    """What it hands out as context has a row for each sample, and it takes it back as the context of its next call.

    All that it says it hands out, as `hands_out`, is there.
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    answer = case.run(component, inputs)
    for name in case.subject.component.hands_out:
        require(
            name in answer.context, f"it says that it hands out {name}, and its context has {sorted(answer.context)}"
        )
    for name, tensor in answer.context.items():
        require(tensor.ndim > 0 and len(tensor) == case.sizes.batch, f"the context {name} has no row for each sample")
    condition = Condition(
        labels=inputs["labels"], blocked=inputs["blocked"], until=inputs["until"], context=answer.context
    )
    again = component(inputs["noisy"], inputs["times"], condition)
    for name, tensor in leaves({"prediction": predicted(again), "context": dict(again.context)}).items():
        require(torch.isfinite(tensor.detach()).all(), f"told its own context, its {name} is not finite")
    shapes = {name: x.shape for name, x in answer.context.items()}
    require(
        shapes == {name: x.shape for name, x in again.context.items()}, "told its own context, it hands out another"
    )


def tokens_of(case: BackboneCase, component: Any, stream: str) -> int:
    """Number of tokens that a stream has in the network."""
    grid: tuple[int, int] = component.grid
    return grid[0] * grid[1] if stream == IMAGE else case.specs[stream].shape[0]


def row_by_row(times: Mapping[str, Tensor], case: BackboneCase, component: Any) -> dict[str, Tensor]:
    """Times [b] as times [b, n], one for every token."""
    return {name: t[:, None].repeat(1, tokens_of(case, component, name)) for name, t in times.items()}
