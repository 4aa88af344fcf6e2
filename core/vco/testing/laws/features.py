"""Laws for feature sources."""

from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from vco.api import Features, FeatureSetting, FeatureSource
from vco.testing.case import FrozenCase, RefusedError
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.frozen import FEW, ODD_SHAPES, Shape, first_accepted, load, loaded, shapes_for
from vco.testing.tensors import no_ambient_draws, require_same


@attrs.frozen(kw_only=True)
class FeatureCase(FrozenCase):
    """A frozen encoder on images that fit it; its weights are loaded once."""

    kind = "features"
    sizes_tried = FEW

    def make(self) -> FeatureSource:
        """The source for the first image shape that it accepts, without weights."""
        return first_accepted(self.subject, self.config, shapes_for(self.subject), FeatureSetting)[0]

    def build(self) -> Any:
        """The source with its weights, in eval mode."""
        return loaded(self.subject, self.config, shapes_for(self.subject), FeatureSetting)[0]

    def inputs(self, component: Any, seed: int) -> dict[str, Tensor]:
        """Random images in [-1, 1]; another seed gives others."""
        shape = loaded(self.subject, self.config, shapes_for(self.subject), FeatureSetting)[1]
        return {"images": self.images(shape, seed)}

    def images(self, shape: Shape, seed: int) -> Tensor:
        """Random images in [-1, 1]."""
        return torch.rand(self.sizes.batch, *shape, generator=self.generator(seed)) * 1.8 - 0.9

    def run(self, component: Any, inputs: Any) -> dict[str, Features]:
        """Both views of the images."""
        images = inputs["images"]
        return {"forward": component(images), "perceive": component.perceive(images)}


@law(FeatureCase)
def features_are_as_specified(case: FeatureCase) -> None:
    """Both views give tokens of the shape and grid of `spec`, `forward` a pooled vector of its width, in float32.

    A classifier gives logits of its classes in both.
    """
    source = case.build()
    spec, batch = source.spec, case.sizes.batch
    for view, features in case.run(source, case.inputs(source, 1)).items():
        require(tuple(features.tokens.shape) == (batch, *spec.tokens), f"{view}: tokens {tuple(features.tokens.shape)}")
        require(tuple(features.grid) == tuple(spec.grid), f"{view}: grid {features.grid}")
        pooled = tuple(features.pooled.shape)
        fits = len(pooled) == 2 and pooled[0] == batch and (view != "forward" or pooled[1] == spec.pooled)
        require(fits, f"{view}: pooled {pooled} instead of (b, e), with e = {spec.pooled} in forward")
        logits, wanted = features.logits, (batch, spec.classes) if spec.classes else None
        found = None if logits is None else tuple(logits.shape)
        require(found == wanted, f"{view}: logits {found} instead of {wanted}, by the classes of its spec")
        for name, value in (("tokens", features.tokens), ("pooled", features.pooled), ("logits", logits)):
            if value is not None:
                require(value.dtype == torch.float32, f"{view}: {name} are {value.dtype}")


@law(FeatureCase)
def views_of_one_pass_are_the_same(case: FeatureCase) -> None:
    """If `forward` hands out the perceptual view as well, it is what `perceive` gives."""
    source = case.build()
    images = case.inputs(source, 1)["images"]
    found = source(images).perceived
    if found is None:
        does_not_apply("each of its views takes a pass of its own")
    require_same(source.perceive(images), found, "the perceptual view from `forward`")


@law(FeatureCase, once=True)
def always_in_eval_mode(case: FeatureCase) -> None:
    """train() leaves it, and every part of it, in eval mode, and its features as they were."""
    source = case.build()
    inputs = case.inputs(source, 1)
    before = case.run(source, inputs)
    with no_ambient_draws("forward after train()"):
        after = case.run(source.train(), inputs)
    training = [name or "it" for name, module in source.named_modules() if module.training]
    require(not training, f"train() put {', '.join(training[:3])} into training mode")
    require_same(before, after, "train() changed the features", 0.0)


@law(FeatureCase, once=True)
def loading_is_frozen_and_repeatable(case: FeatureCase) -> None:
    """A second instance loads the same weights, whatever the ambient random state."""
    source = case.build()
    inputs = case.inputs(source, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        other, _ = load(case.subject, case.config, shapes_for(case.subject), FeatureSetting)
    require_same(case.run(source, inputs), case.run(other, inputs), "a second instance", 0.0)


@law(FeatureCase)
def images_matter(case: FeatureCase) -> None:
    """Other images have other features, in both views, tokens and pooled vector."""
    source = case.build()
    one, other = (case.run(source, case.inputs(source, seed)) for seed in (1, 2))
    for view in one:
        for name in ("tokens", "pooled"):
            gap = (getattr(one[view], name) - getattr(other[view], name)).abs().flatten(1).amax(1)
            require((gap > 1e-6).all(), f"{view}: {name} do not depend on the image")


@law(FeatureCase)
def gradient_reaches_the_images(case: FeatureCase) -> None:
    """Gradients of tokens and pooled vector, in both views, reach every image, or none if not `differentiable`."""
    source = case.build()
    images = case.inputs(source, 1)["images"].requires_grad_()
    for view, features in case.run(source, {"images": images}).items():
        for name, value in (("tokens", features.tokens), ("pooled", features.pooled)):
            if not source.differentiable:
                require(not value.requires_grad, f"{view}: it is differentiable, which it denies: the {name} are")
                continue
            require(value.requires_grad, f"{view}: no gradient comes back from the {name}")
            weights = torch.randn(value.shape, generator=case.generator(3))
            gradient = torch.autograd.grad((value * weights).sum(), images, retain_graph=True)[0]
            require((gradient.abs().flatten(1).amax(1) > 0).all(), f"{view}: no gradient of the {name} at an image")


@law(FeatureCase, about=lambda source: source.differentiable)
def flat_images_have_finite_gradients(case: FeatureCase) -> None:
    """Images of one gray level, such as a network's first predictions, have finite features and gradients."""
    source = case.build()
    for level in (-1.0, 0.0, 1.0):
        images = torch.full_like(case.inputs(source, 1)["images"], level).requires_grad_()
        for view, features in case.run(source, {"images": images}).items():
            for name, value in (("tokens", features.tokens), ("pooled", features.pooled)):
                gradient = torch.autograd.grad(value.sum(), images, retain_graph=True)[0]
                finite = value.isfinite().all() and gradient.isfinite().all()
                require(
                    finite, f"{view}: the {name} of images that are {level:g} everywhere, or their gradient, are NaN"
                )


@law(FeatureCase, once=True, about=lambda source: source.differentiable)
def refuses_what_it_would_crop(case: FeatureCase) -> None:
    """Of every image size that it does not refuse it sees every pixel: nothing is cropped."""
    for shape in ODD_SHAPES if case.subject.shapes.image_shape is None else ():
        try:
            source, _ = load(case.subject, case.config, (shape,), FeatureSetting)
        except RefusedError:
            continue
        images = case.images(shape, 1).requires_grad_()
        for view in (source, source.perceive):
            features: Features = view(images)
            weights = torch.randn(features.tokens.shape, generator=case.generator(3))
            gradient = torch.autograd.grad((features.tokens * weights).sum(), images)[0].abs().amax((0, 1))
            unseen = int((gradient == 0).sum())
            require(unseen == 0, f"{unseen} pixels of images of {shape} enter no token")


@law(FeatureCase)
def tokens_are_row_major(case: FeatureCase) -> None:
    """Changes in cells of the image show most in the tokens of those cells, in row-major order.

    They are held against other orders of the grid: by columns, mirrored, shifted. The images are as smooth as
    photographs are, with two values a cell and side: strided convolutions see white noise half a cell to the side of
    where they see shapes.
    """
    source = case.build()
    rows, columns = source.spec.grid
    if rows * columns == 1:
        does_not_apply("it has one token")
    shape = case.inputs(source, 1)["images"].shape
    coarse = case.images((shape[1], 2 * rows, 2 * columns), 1)
    images = F.interpolate(coarse, size=shape[2:], mode="bilinear")
    before, order = source(images).tokens, torch.arange(rows * columns).reshape(rows, columns)
    cells = sorted(set(torch.linspace(0, rows * columns - 1, 12).round().long().tolist()))
    moved: list[Tensor] = []
    for cell in cells:
        # cells are stretched to whole pixels where the image is smaller than the grid, or not a multiple of it
        places = [
            torch.arange(side) * count // side for side, count in zip(images.shape[2:], (rows, columns), strict=True)
        ]
        inside = (places[0] == cell // columns)[:, None] & (places[1] == cell % columns)
        change = (source(torch.where(inside, -images, images)).tokens - before).abs().mean((0, 2))
        moved.append(change / change.max())
    orders = {
        "row-major": order, "by columns": order.T.reshape(rows, columns), "mirrored left to right": order.flip(1),
        "upside down": order.flip(0), "shifted by one": (order + 1) % order.numel(),
        "shifted back by one": (order - 1) % order.numel(),
    }  # fmt: skip
    scores = {
        name: sum(m[places.flatten()[c]].item() for m, c in zip(moved, cells, strict=True))
        for name, places in orders.items()
    }
    best = max(scores, key=lambda name: scores[name])
    require(best == "row-major", f"the tokens seem to be {best}")
