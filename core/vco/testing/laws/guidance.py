"""Laws for guidance rules: what they hide in training."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition, Guidance, GuidanceSetting, Streams, StreamSpec, UserError
from vco.config.plain import sampling_options
from vco.testing.case import Case
from vco.testing.law import law, require
from vco.testing.tensors import no_ambient_draws, require_same

CLASSES: Final = 5
WEAK: Final = "weak"
"""The branch that another model evaluates."""
TIMES: Final = (0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0)
SHOWN: Final = 0.25
"""Least share of the training samples from which a rule hides nothing by default."""


@attrs.frozen(kw_only=True)
class GuidanceCase(Case):
    """A guidance rule for the image and, if it takes them, features."""

    kind = "guidance"

    def make(self) -> Guidance:
        """The rule for the streams that it accepts."""
        refusal: UserError | None = None
        for streams in (self.specs, {IMAGE: self.specs[IMAGE]}):
            try:
                return self.subject.component(self.config, GuidanceSetting(streams=streams, num_classes=CLASSES))
            except UserError as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    @property
    def specs(self) -> dict[str, StreamSpec]:
        """Of both streams."""
        sizes, grid = self.sizes, (self.sizes.rows, self.sizes.columns)
        own = {
            IMAGE: StreamSpec(shape=(sizes.channels, *grid)),
            FEATURES: StreamSpec(shape=(grid[0] * grid[1], sizes.width), grid=grid),
        }
        return {**own, **self.subject.shapes.streams}

    def labels(self, batch: int = 0) -> Tensor:
        """Random classes, the null label not among them."""
        return torch.randint(0, CLASSES, (batch or self.sizes.batch,), generator=self.generator(1))

    def velocities(self, branches: Mapping[str, Condition], seed: int) -> dict[str, Streams]:
        """Random velocities of every branch."""
        draws, batch = self.generator(seed), self.sizes.batch
        return {
            branch: {name: torch.randn(batch, *spec.shape, generator=draws) for name, spec in self.specs.items()}
            for branch in branches
        }

    def times(self) -> Iterator[dict[str, float]]:
        """Times of both streams, equal and different."""
        yield from ({IMAGE: t, FEATURES: t} for t in TIMES)
        yield {IMAGE: 0.02, FEATURES: 0.5}
        yield {IMAGE: 0.5, FEATURES: 1.0}

    def share_hidden(self, batch: int) -> float:
        """The share of the training samples from which something is hidden."""
        condition = self.build().condition(self.labels(batch), self.generator(2))
        return hidden(condition).any(1).float().mean().item()


HIDDEN: Final = ("label", "features from the image", "the image from features", "the image", "the features")


def hidden(condition: Condition) -> Tensor:
    """Per row, what the network does not see: bool [b, 5] in the order of `HIDDEN`."""
    none = torch.zeros_like(condition.labels, dtype=torch.bool)
    blocked = [condition.blocked.get(edge, none) for edge in ((IMAGE, FEATURES), (FEATURES, IMAGE))]
    nulled = [condition.nulled.get(stream, none) for stream in (IMAGE, FEATURES)]
    return torch.stack([condition.labels == CLASSES, *blocked, *nulled], 1)


def conditional(branches: Mapping[str, Condition], labels: Tensor) -> str:
    """Name of the branch in which everything is shown to the run's own model."""
    for name, condition in branches.items():
        if name != WEAK and torch.equal(condition.labels, labels) and not hidden(condition).any():
            return name
    require(False, f"none of the branches {', '.join(branches)} is the conditional one (all labels, nothing hidden)")
    raise AssertionError


def _require_valid(guidance: Guidance, condition: Condition, labels: Tensor, what: str) -> None:
    require(condition.labels.shape == labels.shape, f"{what}: labels have the shape {tuple(condition.labels.shape)}")
    require(condition.labels.dtype == labels.dtype, f"{what}: labels are {condition.labels.dtype}")
    kept = (condition.labels == labels) | (condition.labels == CLASSES)
    require(kept.all(), f"{what}: a label is neither the given one nor the null label {CLASSES}")
    for edge, rows in condition.blocked.items():
        require(rows.dtype == torch.bool and rows.shape == labels.shape, f"{what}: blocked[{edge}] is no bool [b]")
        require(set(edge) <= {IMAGE, FEATURES} and edge[0] != edge[1], f"{what}: {edge} is no edge of the streams")
        blocks = guidance.needs_blocking or not rows.any()
        require(blocks, f"{what}: it blocks {edge} without saying needs_blocking")
    for masks in (condition.nulled, condition.supervised):
        for stream, rows in masks.items():
            require(stream in (IMAGE, FEATURES), f"{what}: {stream} is no stream of the run")
            require(
                rows.dtype == torch.bool and rows.shape == labels.shape, f"{what}: a mask of {stream} is no bool [b]"
            )
    for name, told in condition.context.items():
        require(told.shape[:1] == labels.shape, f"{what}: the context {name} has no row for each sample")


@law(GuidanceCase)
def conditions_are_valid(case: GuidanceCase) -> None:
    """Labels are the given ones or null, masks are bool [b], edges are blocked only if `needs_blocking`.

    The given labels stay as they are.
    """
    guidance, labels = case.build(), case.labels()
    before = labels.clone()
    _require_valid(guidance, guidance.condition(labels, case.generator(2)), labels, "training")
    for times in case.times():
        for name, condition in guidance.branches(labels, times).items():
            _require_valid(guidance, condition, labels, f"branch {name}")
    require(torch.equal(labels, before), "the given labels were changed")


@law(GuidanceCase)
def same_generator_same_condition(case: GuidanceCase) -> None:
    """What training hides comes from the given generator alone."""
    guidance, labels = case.build(), case.labels(64)
    first = guidance.condition(labels, case.generator(2))
    with no_ambient_draws("condition"):
        again = guidance.condition(labels, case.generator(2))
    require_same(first, again, "two equal generators gave different conditions", 0.0)


@law(GuidanceCase, about=lambda component: bool(sampling_options(component.Config)))
def guidance_of_sampling_leaves_training_alone(case: GuidanceCase) -> None:
    """An option marked as of sampling alone changes neither what training hides, nor `null`, weights or buffers."""
    labels, noisy = case.labels(64), case.velocities({"any": Condition(labels=case.labels())}, 3)["any"]

    def training(guidance: Guidance) -> list[Any]:
        condition = guidance.condition(labels, case.generator(2))
        nulls = {stream: guidance.null(stream, noisy[stream]) for stream in condition.nulled}
        return [condition, nulls, dict(guidance.named_parameters()), dict(guidance.named_buffers())]

    before = training(case.build())
    for name, other in case.sampled_otherwise():
        require_same(before, training(other), f"{name}, an option of sampling, changes training", 0.0)


@law(GuidanceCase, once=True)
def most_samples_may_be_shown_whole(case: GuidanceCase) -> None:
    """By default nothing is hidden from at least a quarter of the training samples."""
    share = case.share_hidden(4000)
    require(share <= 1 - SHOWN, f"by default something is hidden from {share:.1%} of the training samples")


@law(GuidanceCase, once=True)
def every_branch_is_trained(case: GuidanceCase) -> None:
    """What a branch of sampling hides, training has hidden too.

    Samples from which nothing is hidden are supervised in every stream, and a stream that is not shown is not.
    """
    guidance, labels = case.build(), case.labels(4000)
    condition = guidance.condition(labels, case.generator(2))
    trained = {tuple(row) for row in hidden(condition).tolist()}
    for times in case.times():
        for name, branch in guidance.branches(labels[:3], times).items():
            for row in hidden(branch).tolist() if name != WEAK else ():
                hides = [part for part, is_hidden in zip(HIDDEN, row, strict=True) if is_hidden]
                require(tuple(row) in trained, f"branch {name} hides {hides or 'nothing'}, which training never does")
    whole = ~hidden(condition).any(1)
    for stream, rows in condition.supervised.items():
        require(rows[whole].all(), f"supervised leaves out {stream} in samples from which nothing is hidden")
    for stream, rows in condition.nulled.items():
        counted = condition.supervised.get(stream, torch.ones_like(rows))
        require(not (rows & counted).any(), f"{stream} is supervised in samples in which it is not shown")
