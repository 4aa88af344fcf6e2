"""The case of losses: a training step in which everything but the loss is a stand-in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from vco import flow
from vco.api import (
    FEATURES,
    IMAGE,
    CodecSetting,
    Condition,
    Denoised,
    Features,
    FeatureSource,
    FeatureSpec,
    Loss,
    LossSetting,
    Step,
    Streams,
    StreamSpec,
    Tap,
    UserError,
    Views,
)
from vco.objective import complete
from vco.randomness import RowGenerator
from vco.testing.asked import AskedNetwork, Paths, as_it_is
from vco.testing.case import RefusedError, TrainedCase
from vco.testing.options import without_large_numbers
from vco.testing.shapes import encoders
from vco.testing.subject import Subject
from vco.testing.toy import FOLD, RowGeneratorWithoutValues, ToyCodec, ToyEncoder, ToyNetwork
from vco.testing.undeclared import Declared, Undeclared

TAP_WIDTH: Final = 10
DEPTH: Final = 24
"""Blocks of the network, so many that a loss may read any of them by default."""
CLASSES: Final = 50
SIDE: Final = 2 * FOLD
"""Side of the image's cells that are tokens, in pixels."""


@attrs.frozen(kw_only=True)
class LossCase(TrainedCase):
    """A loss at a step of whole class groups, with encoders, taps, and networks that it may ask."""

    kind = "losses"

    latents: bool = False
    """Whether the image stream are latents, which have another shape than the images."""
    until: bool = False
    """Whether another loss has said before where the step goes."""
    split: bool = False
    """Whether each process has one sample of every class group, in place of whole groups."""
    asked: list[AskedNetwork] = attrs.field(factory=list[AskedNetwork], eq=False, repr=False)
    """The networks that the loss has asked in its last step."""
    judging: bool = False
    """Whether these networks look whether what they are asked about belongs together."""
    hears: Callable[[Tensor], Tensor] = attrs.field(default=as_it_is, eq=False, repr=False)
    """What becomes of the noisy streams before the networks that it asks see them."""
    says: Callable[[Tensor], Tensor] = attrs.field(default=as_it_is, eq=False, repr=False)
    """What becomes of taps and context of the networks that it asks before the loss sees them."""

    @classmethod
    def small(cls, subject: Subject) -> Any:
        """Large numbers made small."""
        return without_large_numbers(subject.config, subject.contract, subject.options)

    @classmethod
    def situations(cls, subject: Subject) -> Sequence[Mapping[str, Any]]:
        """Pixels, and latents; without and with a step's end, which another loss has set."""
        return ({}, {"latents": True}, {"until": True})

    def make(self) -> Loss:
        """The loss for taps and features on one grid."""
        setting = LossSetting(
            width=TAP_WIDTH,
            grid=self.grid,
            depth=DEPTH,
            features=self.specs if self.subject.component.needs_features else {},
            streams=self.streams,
            num_classes=CLASSES,
        )
        return self.subject.component(self.config, setting)

    @property
    def specs(self) -> dict[str, FeatureSpec]:
        """Of the features of every encoder."""
        return encoders(self.sizes, self.subject.shapes)

    @property
    def grid(self) -> tuple[int, int]:
        """Of the taps and of the features."""
        return next(iter(self.specs.values())).grid

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the images."""
        given = self.subject.shapes.image_shape
        return given or (self.sizes.channels, self.grid[0] * SIDE, self.grid[1] * SIDE)

    @property
    def codec(self) -> ToyCodec:
        """What is between images and image stream."""
        return ToyCodec(CodecSetting(image_shape=self.image_shape), self.latents)

    @property
    def streams(self) -> dict[str, StreamSpec]:
        """The image stream, and one of features."""
        tokens, grid = next(iter(self.specs.values())).tokens, self.grid
        features = self.subject.shapes.streams.get(FEATURES, StreamSpec(shape=tokens, grid=grid, noise_scale=1.5))
        return {IMAGE: self.codec.spec, FEATURES: features}

    @property
    def group(self) -> int:
        """Samples of one class in the batch."""
        batch = self.sizes.batch
        return 2 if batch < 6 else 3 if batch % 3 == 0 else 4

    @property
    def batch(self) -> int:
        """The batch of whole groups that comes nearest to the size asked for, two groups at least."""
        return max(2, -(-self.sizes.batch // self.group)) * self.group

    def shares(self) -> list[Tensor]:
        """Whole class groups where the loss couples samples, else single ones; if split, one sample of each group."""
        if self.split:
            return [torch.arange(self.batch)[member :: self.group] for member in range(self.group)]
        return list(torch.arange(self.batch).split(self.group if self.subject.component.couples_batch else 1))

    def inputs(self, component: Any, seed: int) -> dict[str, Any]:
        """The tensors of a step."""
        draws, batch = self.generator(seed), self.batch

        def normal(shapes: Mapping[str, tuple[int, ...]]) -> Streams:
            return {name: torch.randn(batch, *shape, generator=draws) for name, shape in shapes.items()}

        images = torch.rand(batch, *self.image_shape, generator=draws) * 1.8 - 0.9
        shapes = {name: spec.shape for name, spec in self.streams.items()}
        clean = {**normal(shapes), IMAGE: self.codec.encode(images, None).clone()}
        classes = torch.randperm(CLASSES, generator=draws)[: batch // self.group].repeat_interleave(self.group)
        times = {name: torch.rand(batch, generator=draws) * 0.98 + 0.01 for name in shapes}
        views: dict[str, dict[str, Any]] = {"features": {}, "real": {}}
        for name, encoder in self.encoders().items():
            views["features"][name] = _parts(encoder(images))
            views["real"][name] = _parts(encoder.perceive(images))
        return {
            "images": images,
            "labels": classes,
            "told": torch.where(torch.rand(batch, generator=draws) < 0.2, CLASSES, classes),
            "slots": torch.randperm(1000, generator=draws)[:batch],
            "times": times,
            "until": {name: t + (1 - t) / 9 for name, t in times.items()} if self.until else {},
            "noise": normal(shapes),
            "clean": clean,
            "target": {name: x.clone() for name, x in clean.items()},
            "predicted": {name: clean[name] + x for name, x in normal(shapes).items()},
            "context": torch.randn(batch, *next(iter(self.specs.values())).tokens, generator=draws),
            "weights": {name: 0.5 + torch.rand(batch, generator=draws) for name in shapes},
            "taps": {k: torch.randn(batch, self.num_tokens, TAP_WIDTH, generator=draws) for k in component.taps},
            **views,
        }

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the image stream."""
        return self.grid[0] * self.grid[1]

    def encoders(self) -> dict[str, ToyEncoder]:
        """The encoders of the run."""
        named = enumerate(self.specs.items(), 11)
        return {name: ToyEncoder(self.image_shape, spec, seed) for seed, (name, spec) in named}

    def paths(self, inputs: Any) -> Paths:
        """The paths of the batch's streams from noise to data."""
        return Paths(clean=inputs["clean"], noise=inputs["noise"], specs=self.streams)

    def network(self, inputs: Any, name: str, gradient: bool = False) -> AskedNetwork:
        """A network that the loss may ask."""
        seed = 31 if name == "teacher" else 30
        spec = next(iter(self.specs.values()))
        module = ToyNetwork(self.streams, spec, width=TAP_WIDTH, depth=DEPTH, classes=CLASSES, seed=seed)
        module.to(inputs["images"].device)
        return AskedNetwork(
            name=name,
            module=module,
            asked=self.asked,
            paths=self.paths(inputs) if self.judging else None,
            gradient=gradient,
            hears=self.hears,
            says=self.says,
        )

    def prepared(self, component: Any, inputs: Any) -> Step:
        """The step that the network is asked about; its answer is not there yet."""
        images, declared = inputs["images"], self.subject.component
        self.asked.clear()
        slots: Any = range(len(images)) if images.is_meta else inputs["slots"].tolist()
        generator = RowGeneratorWithoutValues if images.is_meta else RowGenerator
        views = Views(self._sources(images.device), images)
        views.memory |= {
            (view, name): Features(grid=self.specs[name].grid, **parts)
            for view in ("features", "real")
            for name, parts in inputs[view].items()
        }
        step = Step(
            number=0,
            images=images,
            labels=inputs["labels"],
            times=inputs["times"],
            condition=Condition(labels=inputs["told"], until=inputs["until"]),
            clean=inputs["clean"],
            noise=inputs["noise"],
            noisy={
                name: flow.corrupt(x, inputs["noise"][name], inputs["times"][name], spec.noise_scale)
                for (name, x), spec in zip(inputs["clean"].items(), self.streams.values(), strict=True)
            },
            target=inputs["target"],
            specs=self.streams,
            views=views,
            codec=self.codec,
            network=self.network(inputs, "network", gradient=True),
            quiet=self.network(inputs, "quiet"),
            generator=generator(("kit",), slots),
            teacher=self.network(inputs, "teacher") if declared.needs_teacher else None,
            denoising_weights=inputs["weights"],
            split_groups=self.split,
        )
        try:
            return original(component).prepare(step.of_loss("tested", "prepare", reads_features=True))
        except UserError as error:
            raise RefusedError(str(error)) from error

    def _sources(self, device: torch.device) -> Mapping[str, FeatureSource]:
        if not self.subject.component.needs_features:
            return Undeclared()
        return {name: encoder.to(device) for name, encoder in self.encoders().items()}

    def step(self, component: Any, inputs: Any) -> Step:
        """A step made of these tensors, with the network's answer."""
        step = self.prepared(component, inputs)
        positions = inputs.get("positions", torch.arange(self.num_tokens, device=inputs["images"].device))
        taps = {
            k: Tap(tokens=tokens, positions=positions[k] if isinstance(positions, dict) else positions)
            for k, tokens in inputs["taps"].items()
        }
        told = {FEATURES: inputs["context"]} if FEATURES in self.subject.component.needs_context else {}
        answer = Denoised(clean=inputs["predicted"], taps=taps, context=Declared(told))
        step = step.answered(complete(answer, step.noisy, step.times))
        return step.of_loss("tested", "forward", reads_features=True)

    def terms(self, component: Any, step: Step) -> dict[str, Tensor]:
        """The named losses of a step; raises `RefusedError` where the loss cannot do with such a step."""
        try:
            return dict(component(step))
        except UserError as error:
            raise RefusedError(str(error)) from error

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """The named losses."""
        return self.terms(component, self.step(component, inputs))

    def waits_for_values(self, component: Any) -> bool:
        """Whether it asks a network again: selecting the rows that it asks about is little beside that."""
        for seed in range(1, 9):  # it may ask about some samples only, and a batch may have none of these
            self.run(component, self.inputs(component, seed))
            if self.asked:
                return True
        return False

    def total(self, component: Any, inputs: Any) -> Tensor:
        """The sum of the terms' means."""
        return torch.stack([term.mean() for term in self.run(component, inputs).values()]).sum()


def _parts(features: Features) -> dict[str, Tensor]:
    return {"tokens": features.tokens.detach(), "pooled": features.pooled.detach()}


def original(component: Any) -> Any:
    """The module in the wrapper that torch.compile puts around it."""
    return getattr(component, "_orig_mod", component)
