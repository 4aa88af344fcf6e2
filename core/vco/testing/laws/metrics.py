"""Laws for metrics."""

import math
from collections.abc import Sequence
from typing import Any, Final

import attrs
import torch
import yaml
from torch import Tensor

from vco.api import Features, FeatureSpec, Metric, MetricSetting, Score, UserError
from vco.testing.case import Case
from vco.testing.law import does_not_apply, law, require
from vco.testing.shapes import encoders
from vco.testing.sizes import Sizes
from vco.testing.tensors import clone, no_ambient_draws, require_same

ENCODER: Final = "an-encoder"
CLASSES: Final = 5
IMAGES: Final = 96
"""Generated images, and as many real ones."""
FEW: Final = 12
"""Images of which a set without variety is made."""


@attrs.frozen(kw_only=True)
class Sample:
    """Images and what an encoder says about them."""

    images: Tensor
    features: Features | None

    def rows(self, rows: Tensor) -> "Sample":
        """Some of them."""
        features = self.features
        if features is not None:
            features = Features(
                tokens=features.tokens[rows],
                grid=features.grid,
                pooled=features.pooled[rows],
                logits=None if features.logits is None else features.logits[rows],
            )
        return Sample(images=self.images[rows], features=features)


@attrs.frozen(kw_only=True)
class MetricCase(Case):
    """A metric of random images whose features have means and variances of their own."""

    kind = "metrics"
    sizes_tried = (Sizes(batch=3, width=8), Sizes(batch=16, channels=1, width=9, seed=1))

    def make(self) -> Metric:
        """The metric."""
        return self.subject.component(self.config, self.setting)

    @property
    def needs_features(self) -> bool:
        """Whether it looks through an encoder."""
        return self.subject.component.needs_features

    @property
    def spec(self) -> FeatureSpec:
        """What the encoder yields; it is a classifier."""
        return attrs.evolve(next(iter(encoders(self.sizes, self.subject.shapes).values())), classes=CLASSES)

    @property
    def setting(self) -> MetricSetting:
        """What it is told of the run."""
        own = (self.sizes.channels, 2 * self.sizes.rows, 2 * self.sizes.columns)
        return MetricSetting(
            image_shape=self.subject.shapes.image_shape or own,
            num_classes=CLASSES,
            encoder=ENCODER if self.needs_features else "",
            features=self.spec if self.needs_features else None,
        )

    def sample(self, seed: int, count: int = IMAGES, shift: float = 0.0) -> Sample:
        """Images and their features; `shift` moves both."""
        draws, fixed, (n, d), e = self.generator(seed), self.generator(7), self.spec.tokens, self.spec.pooled
        noise = torch.randn(count, *self.setting.image_shape, generator=draws)
        images = (127 + 30 * noise + 90 * shift).clamp(0, 255).to(torch.uint8)
        features = None
        if self.needs_features:
            means = 5 * torch.randn(e, generator=fixed)
            mixing = torch.randn(e, e, generator=fixed) / e**0.5
            pooled = torch.randn(count, e, generator=draws) @ mixing + means + 3 * shift
            tokens = torch.randn(count, n, d, generator=draws) + 3 * shift
            logits = (3 + shift) * torch.randn(count, CLASSES, generator=draws)
            features = Features(tokens=tokens, grid=self.spec.grid, pooled=pooled, logits=logits)
        return Sample(images=images, features=features)

    def fed(self, generated: Sample, real: Sample, sizes: Sequence[int] = (IMAGES,)) -> Metric:
        """The metric after it has seen images in batches of these sizes."""
        metric: Metric = self.build()
        for kind, sample in ((True, generated), (False, real)):
            for rows in torch.arange(len(sample.images)).split(list(sizes)):
                part = sample.rows(rows)
                metric.update(part.images, part.features, kind)
        return metric

    def score(self, generated: Sample, real: Sample) -> Score:
        """The score of images, seen at once."""
        return self.fed(generated, real, (len(generated.images),)).score()


def _value(metric: Metric) -> Tensor:
    return torch.tensor(metric.score().value, dtype=torch.float64)


@law(MetricCase)
def score_is_a_number_with_a_name(case: MetricCase) -> None:
    """The score is a finite float; its name says the encoder that it looks through, its protocol is plain data.

    Asked twice it is the same, and nothing ambient is drawn. It is the first of its `scores`, whose names differ.
    """
    metric = case.fed(case.sample(1), case.sample(2))
    with no_ambient_draws("score"):
        score, again, every = metric.score(), metric.score(), list(metric.scores())
    require(every[:1] == [score], f"the first of its scores is {every[:1]}, and its score {score}")
    names = [one.name for one in every]
    require(len(set(names)) == len(names), f"several of its scores have one name: {names}")
    for one in every:
        _require_sound(case, one)
    require(score == again, f"asked twice it says {score} and {again}")


def _require_sound(case: MetricCase, score: Score) -> None:
    require(isinstance(score.value, float), f"the value is a {type(score.value).__name__}")
    require(math.isfinite(score.value), f"the value is {score.value}")
    if case.needs_features:
        require(ENCODER in score.name, f"the name {score.name!r} does not say that the encoder is {ENCODER}")
    require(len(score.name) > 0 and score.name.isprintable(), f"the name is {score.name!r}")
    try:
        plain = yaml.safe_load(yaml.safe_dump(dict(score.protocol)))
    except yaml.YAMLError:
        plain = None
    require(plain == dict(score.protocol), f"the protocol is no plain data: {score.protocol}")


@law(MetricCase)
def batches_do_not_matter(case: MetricCase) -> None:
    """The same images in other batches, in another order and real ones first have the same score.

    Up to rounding, where features have a mean that is large beside their deviations too.
    """
    generated, real = case.sample(1), case.sample(2)
    expected = _value(case.fed(generated, real))
    order = torch.randperm(IMAGES, generator=case.generator(3))
    for what, sizes, rows in (
        ("in batches of other sizes", (40, 1, 55), torch.arange(IMAGES)),
        ("in another order", (IMAGES,), order),
    ):
        found = _value(case.fed(generated.rows(rows), real.rows(rows), sizes))
        require_same(expected, found, f"the score of the same images {what}", 1e-5)
    metric: Metric = case.build()
    for kind, sample in ((False, real), (True, generated)):
        metric.update(sample.images, sample.features, kind)
    require_same(expected, _value(metric), "the score of the same images, real ones first,", 1e-5)


@law(MetricCase)
def processes_do_not_matter(case: MetricCase) -> None:
    """Merged, the states of several processes give the score of one that has seen all, on each of them.

    However the images are shared: a process may have seen fewer, or none.
    """
    generated, real = case.sample(1), case.sample(2)
    expected = _value(case.fed(generated, real))
    for shares in ((48, 48), (60, 36), (50, 46, 0)):
        parts = [torch.arange(IMAGES)[sum(shares[:i]) : sum(shares[: i + 1])] for i in range(len(shares))]
        metrics = [
            case.fed(generated.rows(rows), real.rows(rows), (len(rows),)) if len(rows) else case.build()
            for rows in parts
        ]
        states = [clone(dict(metric.state())) for metric in metrics]
        for state in states:
            require(all(isinstance(value, Tensor) for value in state.values()), "its state holds more than tensors")
        for rank, metric in enumerate(metrics):
            metric.merge([clone(state) for state in states])
            what = f"the score of process {rank} of {len(shares)}, which saw {shares[rank]} images of each kind,"
            require_same(expected, _value(metric), what, 1e-5)
    apart = [case.build(), case.build()]
    for metric, sample, kind in zip(apart, (generated, real), (True, False), strict=True):
        metric.update(sample.images, sample.features, kind)
    merged: Metric = case.build()
    merged.merge([clone(dict(metric.state())) for metric in apart])
    require_same(expected, _value(merged), "the score where one has seen generated images and one real ones", 1e-5)


@law(MetricCase)
def moments_stand_for_images(case: MetricCase) -> None:
    """Held against the moments that it tells of real images, it has the score that it has against the images.

    A metric that keeps more of them tells none, and may refuse moments with a `UserError`.
    """
    generated, real = case.sample(1), case.sample(2)
    whole = case.fed(generated, real)
    seen, apart = case.build(), case.build()
    seen.update(real.images, real.features, False)
    apart.update(generated.images, generated.features, True)
    moments = seen.moments()
    if moments is None:
        does_not_apply("it keeps more of real images than moments, or nothing")
    metric: Metric = case.build()
    metric.merge([clone(dict(apart.state()))])
    metric.hold_against(moments)
    require_same(_value(whole), _value(metric), "the score against moments", 1e-9)
    require(metric.score().protocol == whole.score().protocol, f"its protocol is {metric.score().protocol}")


@law(MetricCase)
def images_matter(case: MetricCase) -> None:
    """Other generated images have another score."""
    real = case.sample(2)
    one, other = (case.score(case.sample(1, shift=shift), real).value for shift in (0.0, 1.0))
    require(one != other, f"other generated images have the same score {one:g}")


@law(MetricCase)
def equal_sets_score_best(case: MetricCase) -> None:
    """Generated images that are the real ones score better than images that are off, and no worse than a few of them.

    The few are repeated. A metric that says that it needs no real images has the same score whatever they are.
    """
    real = case.sample(2)
    ignores = case.score(case.sample(1), real).value == case.score(case.sample(1), case.sample(4, shift=1.0)).value
    needs = case.subject.component.needs_real
    require(ignores != needs, f"its score {'depends' if needs is False else 'does not depend'} on real images")
    if ignores:
        does_not_apply("it needs no real images")
    equal = case.score(real, real)
    direction = 1 if equal.higher_is_better else -1
    word = "higher" if equal.higher_is_better else "lower"
    for shift in (0.5, 1.0):
        other = case.score(case.sample(1, shift=shift), real).value
        better = direction * equal.value > direction * other
        require(better, f"equal sets score {equal.value:g}, others {other:g}, although {word} is better")
    few = case.score(real.rows(torch.arange(IMAGES) % FEW), real).value
    no_worse = direction * equal.value >= direction * few
    require(no_worse, f"equal sets score {equal.value:g}, {FEW} of them repeated {few:g}, although {word} is better")


@law(MetricCase)
def images_are_left_alone(case: MetricCase) -> None:
    """update() changes no image or feature that it is given, and what is done to them later changes no score."""
    generated, real = case.sample(1), case.sample(2)
    metric: Metric = case.build()
    for kind, sample in ((True, generated), (False, real)):
        before = _tensors(sample)
        with no_ambient_draws("update"):
            metric.update(sample.images, sample.features, kind)
        for name, x in _tensors(sample).items():
            require(torch.equal(x, before[name]), f"update() changes the {name} that it is given")
    expected = _value(metric)
    for sample in (generated, real):
        for x in _given(sample).values():
            x.zero_()
    require_same(expected, _value(metric), "after its caller has used the images' memory for others, the score", 0.0)


def _given(sample: Sample) -> dict[str, Tensor]:
    features = sample.features
    if features is None or features.logits is None:
        return {"images": sample.images}
    seen = {"tokens": features.tokens, "pooled vectors": features.pooled, "logits": features.logits}
    return {"images": sample.images, **seen}


def _tensors(sample: Sample) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in _given(sample).items()}


@law(MetricCase)
def too_few_images_are_refused(case: MetricCase) -> None:
    """Without generated images it raises a `UserError` that says so; of one image it may have a score.

    That is then a finite number.
    """
    for metric, what in ((case.build(), "no images at all"), (_with_real_ones(case), "no generated images")):
        try:
            score: Any = metric.score()
        except UserError as error:
            require(len(str(error)) > 20, f"of {what} it says only {str(error)!r}")
        else:
            require(False, f"of {what} it has a score, {score}")
    try:
        value = case.score(case.sample(1, 1), case.sample(2, 1)).value
    except UserError:
        return
    require(math.isfinite(value), f"of one generated and one real image the score is {value}")


def _with_real_ones(case: MetricCase) -> Metric:
    metric, real = case.build(), case.sample(2)
    metric.update(real.images, real.features, False)
    return metric
