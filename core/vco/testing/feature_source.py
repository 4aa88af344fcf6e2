"""Laws for feature sources."""

from functools import lru_cache
from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import Features, FeatureSource
from vco.errors import UserError
from vco.testing.case import ModuleCase
from vco.testing.law import does_not_apply, law, require
from vco.testing.sizes import Sizes
from vco.testing.subject import NOWHERE, Subject, elsewhere, text_options
from vco.testing.tensors import no_ambient_draws, require_same

SHAPES = ((3, 32, 32), (1, 8, 8), (3, 224, 224), (3, 256, 256), (1, 28, 28), (3, 64, 64))
"""Image shapes (c, h, w) that are tried until one is accepted."""
ODD_SHAPES = ((1, 8, 8), (3, 32, 32), (3, 30, 30), (3, 33, 33), (3, 32, 48), (3, 45, 31), (1, 9, 10))
"""Image shapes of which a patch or a crop would lose the edge."""


@attrs.frozen(kw_only=True)
class FeatureCase(ModuleCase):
    """A frozen encoder on images that fit it; its weights are loaded once."""

    kind = "features"
    sizes_tried = (Sizes(batch=3), Sizes(batch=2, seed=1))

    def construct(self) -> FeatureSource:
        """The source for the first image shape that it accepts, without weights."""
        refusal: UserError | None = None
        for shape in SHAPES:
            try:
                return self.subject.component(self.config, image_shape=shape)
            except UserError as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def build(self) -> Any:
        """The source with its weights, in eval mode."""
        return _loaded(self.subject, self.config)[0]

    def inputs(self, component: Any, seed: int) -> dict[str, Tensor]:
        """Smooth random images in [-1, 1], and the same number of another batch."""
        return {"images": self.images(_loaded(self.subject, self.config)[1], seed)}

    def images(self, shape: tuple[int, int, int], seed: int) -> Tensor:
        """Random images in [-1, 1]."""
        return torch.rand(self.sizes.batch, *shape, generator=self.generator(seed)) * 1.8 - 0.9

    def run(self, component: Any, inputs: Any) -> dict[str, Features]:
        """Both views of the images."""
        images = inputs["images"]
        return {"forward": component(images), "perceive": component.perceive(images)}


@lru_cache(maxsize=8)
def _loaded(subject: Subject, config: Any) -> tuple[Any, tuple[int, int, int]]:
    return _load(subject, config, SHAPES)


def _load(subject: Subject, config: Any, shapes: Any) -> tuple[Any, tuple[int, int, int]]:
    """The source for the first accepted shape, loaded and frozen as a run does it."""
    refusal: UserError | None = None
    for shape in shapes:
        try:
            source = subject.component(config, image_shape=shape)
        except UserError as error:
            refusal = refusal or error
            continue
        try:
            source.check()
            source.load()
        except UserError as error:
            sentence = error.of("not tried", f"set {subject.id}")
            require(not subject.settings, f"{sentence} (with the settings given)")
            does_not_apply(sentence)
        return source.requires_grad_(False).eval(), shape
    assert refusal is not None
    raise refusal


@law(FeatureCase, once=True)
def spec_is_known_before_loading(case: FeatureCase) -> None:
    """Its constructor reads no weights, yet knows the tokens' shape (n, d) and a grid of n cells."""
    source = case.construct()
    held = sum(p.numel() for p in source.parameters() if not p.is_meta)
    require(held == 0, f"the constructor made {held} weights; that is the work of load()")
    require(len(source.spec.shape) == 2, f"spec.shape is {source.spec.shape} instead of (n, d)")
    rows, columns = source.spec.grid or (0, 0)
    require(rows * columns == source.spec.shape[0], f"{source.spec.grid} is no grid of {source.spec.shape[0]} tokens")


def _may_miss_weights(source: type[FeatureSource]) -> bool:
    return source.check is not FeatureSource.check or bool(text_options(source))


@law(FeatureCase, once=True, about=_may_miss_weights)
def missing_weights_are_named(case: FeatureCase) -> None:
    """If weights are missing, check() and load() raise a `UserError`: what, and how to get it, options as `--.weights`.

    Where they are there, each option of text says in turn that they lie where nothing is.
    """
    others = elsewhere(case.subject.component, case.config).items()
    missed = [_missed(case, config, f"--.{name}") for name, config in others]
    if not _missed(case, case.config, "") and not any(missed):
        does_not_apply("its weights are always there")


def _missed(case: FeatureCase, config: Any, option: str) -> bool:
    """Whether weights are missing with this config; then it must say so."""
    source: FeatureSource | None = None
    try:
        source = attrs.evolve(case, config=config).construct()
        source.check()
    except UserError as error:
        said = str(error)
    else:
        return False
    require(len(said) > 40, f"check() says only {said!r}")
    require(option in said, f"{option} is {NOWHERE!r}, and check() does not name it: {said!r}")
    for section in ("features", "evaluator"):
        known = f"--{section}." in said
        require(not known, f"check() cannot know that it was chosen with --{section}: write `--.` and the option")
    if source is not None:
        try:
            source.load()
        except UserError:
            return True
        require(False, "check() says that weights are missing, load() works without them")
    return True


@law(FeatureCase)
def features_are_as_specified(case: FeatureCase) -> None:
    """Both views give tokens of the shape and grid of `spec`, `forward` a pooled vector of its width, in float32."""
    source = case.build()
    for view, features in case.run(source, case.inputs(source, 1)).items():
        batch, shape = case.sizes.batch, source.spec.shape
        require(tuple(features.tokens.shape) == (batch, *shape), f"{view}: tokens {tuple(features.tokens.shape)}")
        require(tuple(features.grid) == tuple(source.spec.grid), f"{view}: grid {features.grid}")
        pooled = tuple(features.pooled.shape)
        width = source.spec.pooled or shape[1]
        fits = len(pooled) == 2 and pooled[0] == batch and (view != "forward" or pooled[1] == width)
        require(fits, f"{view}: pooled {pooled} instead of (b, e), with e = {width} in forward")
        for name, value in (("tokens", features.tokens), ("pooled", features.pooled)):
            require(value.dtype == torch.float32, f"{view}: {name} are {value.dtype}")


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
        other, _ = _load(case.subject, case.config, SHAPES)
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
    for shape in ODD_SHAPES:
        try:
            source, _ = _load(case.subject, case.config, (shape,))
        except UserError:
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

    They are held against other orders of the grid: by columns, mirrored, shifted.
    """
    source = case.build()
    rows, columns = source.spec.grid
    if rows * columns == 1:
        does_not_apply("it has one token")
    images = case.inputs(source, 1)["images"]
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
