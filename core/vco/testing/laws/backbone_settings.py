"""Laws for backbones about the run that they are built for: its streams, its image, its encoders."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from vco.api import IMAGE, Backbone, BackboneSetting, FeatureSpec, ReadsFeatures, StreamSpec, UserError
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.backbones import CLASSES, BackboneCase, predicted
from vco.testing.shapes import encoders
from vco.testing.tensors import require_same, scramble


@law(BackboneCase, once=True)
def refuses_missing_streams(case: BackboneCase) -> None:
    """Constructed without one of its streams, it raises a `UserError`."""
    case.build()
    component, specs = case.subject.component, case.specs
    for missing in set(component.streams) - {IMAGE}:  # every run has the image
        rest = {name: spec for name, spec in specs.items() if name != missing}
        try:
            component(case.config, case.setting(rest))
        except UserError:
            continue
        require(False, f"it was constructed without the stream {missing}")


@law(BackboneCase)
def images_of_other_sides_are_refused_or_denoised(case: BackboneCase) -> None:
    """An image stream that its patches may not fill is refused with a `UserError`, or denoised to its last pixel."""
    case.build()
    channels, height, width = case.specs[IMAGE].shape
    for shape in ((channels, height + 1, width), (channels, height, width + 1)):
        specs = {**case.specs, IMAGE: attrs.evolve(case.specs[IMAGE], shape=shape)}
        try:
            component = _built(case, case.config, case.setting(specs))
        except UserError:
            continue
        inputs, size = _inputs(case, specs), "x".join(map(str, shape))
        image = inputs["noisy"][IMAGE].requires_grad_()
        found = predicted(case.ask(component, inputs))[IMAGE]
        require(found.shape == image.shape, f"an image stream of {size} became {tuple(found.shape[1:])}")
        (found * torch.randn(found.shape, generator=case.generator(9))).sum().backward()
        assert image.grad is not None
        seen = image.grad.abs().sum((0, 1))
        reached = seen[-1].any() and seen[:, -1].any()
        require(reached, f"of an image stream of {size} it does not see the last row or column")


@law(BackboneCase, about=lambda backbone: issubclass(backbone.Config, ReadsFeatures))
def is_built_for_the_encoder_that_is_named(case: BackboneCase) -> None:
    """With the option `features` it is built for the encoder that this names, by default the first.

    It is the network that it would be if the run had this encoder alone.
    """
    case.build()
    known, tried = encoders(case.sizes, case.subject.shapes), 0
    for named in ("", *known):
        expected = named or next(iter(known))
        config = attrs.evolve(case.config, features=named)
        try:
            chosen = _built(case, config, _setting(case, known))
            alone = _built(case, config, _setting(case, {expected: known[expected]}))
        except UserError:  # it need not fit every encoder
            continue
        tried += 1
        shapes = [{name: tuple(x.shape) for name, x in part.state_dict().items()} for part in (chosen, alone)]
        other = sorted(
            name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
        )
        require(not other, f"with features={named!r} {other[:1]} has not the shape that it has for {expected} alone")
        inputs = _inputs(case, case.specs)
        what = f"with features={named!r} and for {expected} alone"
        require_same(case.run(chosen, inputs), case.run(alone, inputs), what, 0.0)
    if not tried:
        does_not_apply("it fits no encoder of these")


def _setting(case: BackboneCase, features: Mapping[str, FeatureSpec]) -> BackboneSetting:
    """What it is told of a run with these encoders."""
    return BackboneSetting(streams=case.specs, num_classes=CLASSES, features=features, until=case.until)


def _built(case: BackboneCase, config: Any, setting: BackboneSetting) -> Backbone:
    """The network of a run, as `case.build` makes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.sizes.seed)
        component: Backbone = case.subject.component(config, setting)
    scramble(component)
    return component.eval()


def _inputs(case: BackboneCase, specs: Mapping[str, StreamSpec]) -> dict[str, Any]:
    """A question about streams of any shapes, in which nothing is blocked."""
    draws, batch = case.generator(1), case.sizes.batch
    times = {name: torch.rand(batch, generator=draws) for name in specs}
    return {
        "noisy": {name: torch.randn(batch, *spec.shape, generator=draws) for name, spec in specs.items()},
        "times": times,
        "labels": torch.randint(0, CLASSES + 1, (batch,), generator=draws),
        "blocked": {},
        "until": {name: (1 + t) / 2 for name, t in times.items()} if case.until else {},
        "draws": {},
    }
