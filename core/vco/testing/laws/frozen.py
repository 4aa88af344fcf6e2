"""Laws for what is frozen and may be read from a file: feature sources and codecs. Their weights are loaded once."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from vco.api import Codec, FeatureSource, UserError
from vco.testing import options
from vco.testing.case import FrozenCase, RefusedError
from vco.testing.law import does_not_apply, law, require
from vco.testing.options import NOWHERE
from vco.testing.sizes import Sizes
from vco.testing.subject import Subject

SHAPES: Final = ((3, 32, 32), (1, 8, 8), (3, 224, 224), (3, 256, 256), (1, 28, 28), (3, 64, 64))
"""Image shapes (c, h, w) that are tried until one is accepted."""
ODD_SHAPES: Final = ((1, 8, 8), (3, 32, 32), (3, 30, 30), (3, 33, 33), (3, 32, 48), (3, 45, 31), (1, 9, 10))
"""Image shapes of which a patch or a crop would lose the edge."""
FEW: Final = (Sizes(batch=3), Sizes(batch=2, seed=1))
"""Sizes that are tried: there are few images, as encoders may be large."""
Shape = tuple[int, int, int]


def shapes_for(subject: Subject) -> Sequence[Shape]:
    """The image shapes to try: the one that the author gave, or all."""
    given = subject.shapes.image_shape
    return SHAPES if given is None else (given,)


def first_accepted(subject: Subject, config: Any, shapes: Sequence[Shape], setting: Any) -> tuple[Any, Shape]:
    """The component for the first image shape that it accepts, without weights, and that shape.

    Args:
        subject: what is tested.
        config: its options.
        shapes: what to try.
        setting: the class of its setting, which tells it the image shape.

    Raises:
        RefusedError: if it accepts none, with what it said about the first.
    """
    refusal: UserError | None = None
    for shape in shapes:
        try:
            return subject.component(config, setting(image_shape=shape)), shape
        except UserError as error:
            refusal = refusal or error
    raise RefusedError(str(refusal)) from refusal


@lru_cache(maxsize=8)
def loaded(subject: Subject, config: Any, shapes: Sequence[Shape], setting: Any) -> tuple[Any, Shape]:
    """Likewise with its weights, frozen as a run does it; the law does not apply where they are missing."""
    return load(subject, config, shapes, setting)


def load(subject: Subject, config: Any, shapes: Sequence[Shape], setting: Any) -> tuple[Any, Shape]:
    """A fresh component with its weights."""
    component, shape = first_accepted(subject, config, shapes, setting)
    try:
        component.check()
        component.load()
    except UserError as error:
        sentence = error.of("not tried", f"set {subject.id}")
        require(not subject.options, f"{sentence} (with the settings given)")
        does_not_apply(sentence)
    return component.requires_grad_(False).eval(), shape


def _may_miss_weights(component: type[Codec] | type[FeatureSource]) -> bool:
    contracts = (Codec.check, FeatureSource.check)
    return component.check not in contracts or bool(options.elsewhere(component.Config()))


@law(FrozenCase, once=True, about=_may_miss_weights)
def missing_weights_are_named(case: FrozenCase) -> None:
    """If weights are missing, check() and load() raise a `UserError`: what, and how to get it, options as `--.weights`.

    Where they are there, each option of text says in turn that they lie where nothing is.
    """
    missed = [_missed(case, config, option) for option, config in _places(case)]
    if not any(missed):
        does_not_apply("its weights are always there")


def _places(case: FrozenCase) -> Iterator[tuple[str, Any]]:
    """Options, and the one that its message has to name; none for those that it is tested with."""
    yield "", case.config
    for name, config in options.elsewhere(case.config).items():
        yield f"--.{name}", config


def _missed(case: FrozenCase, config: Any, option: str) -> bool:
    """Whether weights are missing with this config; then it must say so."""
    component: Any = None
    try:
        component = attrs.evolve(case, config=config).make()
        component.check()
    except UserError as error:
        said = str(error)
    else:
        return False
    require(len(said) > 40, f"check() says only {said!r}")
    require(option in said, f"{option} is {NOWHERE!r}, and check() does not name it: {said!r}")
    for section in ("features", "metric", "codec"):
        known = f"--{section}." in said
        require(not known, f"check() cannot know that it was chosen with --{section}: write `--.` and the option")
    if component is not None:
        try:
            component.load()
        except UserError:
            return True
        require(False, "check() says that weights are missing, load() works without them")
    return True


@law(FrozenCase, once=True)
def spec_is_known_before_loading(case: FrozenCase) -> None:
    """Its constructor reads no weights, yet knows the shape of what it yields, and a grid that has as many cells."""
    component = case.construct()
    held = sum(p.numel() for p in component.parameters() if not p.is_meta)
    require(held == 0, f"the constructor made {held} weights; that is the work of load()")
    spec = component.spec
    shape = tuple(getattr(spec, "tokens", None) or spec.shape)
    require(all(type(n) is int and n > 0 for n in shape), f"the spec says that the shape is {shape}")
    if spec.grid is not None and len(shape) == 2:
        require(spec.grid[0] * spec.grid[1] == shape[0], f"{spec.grid} is no grid of {shape[0]} tokens")
