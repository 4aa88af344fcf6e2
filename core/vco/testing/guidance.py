"""Laws for guidance rules."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import FEATURES, PIXELS, Condition, Guidance, Streams, StreamSpec
from vco.errors import UserError
from vco.testing.case import Case
from vco.testing.law import does_not_apply, law, require
from vco.testing.tensors import cast, clone, leaves, no_ambient_draws, on_meta, require_same, rows_of, with_rows

CLASSES = 5
WEAK = "weak"
"""The branch that another model evaluates."""
TIMES = (0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0)


@attrs.frozen(kw_only=True)
class GuidanceCase(Case):
    """A guidance rule for pixels and, if it takes them, features."""

    kind = "guidance"

    def construct(self) -> Guidance:
        """The rule for the streams that it accepts."""
        refusal: UserError | None = None
        for streams in (self.specs, {PIXELS: self.specs[PIXELS]}):
            try:
                return self.subject.component(self.config, streams=streams, num_classes=CLASSES)
            except UserError as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def having(self, **options: Any) -> "GuidanceCase":
        """The same case with other options; the law does not apply to a Config without them."""
        known = attrs.fields_dict(type(self.config))
        if missing := options.keys() - known.keys():
            does_not_apply(f"its Config has no option {', '.join(sorted(missing))}")
        return attrs.evolve(self, config=attrs.evolve(self.config, **options))

    @property
    def specs(self) -> dict[str, StreamSpec]:
        """Of both streams."""
        sizes, grid = self.sizes, (self.sizes.rows, self.sizes.columns)
        return {
            PIXELS: StreamSpec(shape=(sizes.channels, *grid)),
            FEATURES: StreamSpec(shape=(grid[0] * grid[1], sizes.width), grid=grid),
        }

    @property
    def scales(self) -> list[str]:
        """Names of its options of guidance strength."""
        return [name for name in attrs.fields_dict(type(self.config)) if name.endswith("scale")]

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
        yield from ({PIXELS: t, FEATURES: t} for t in TIMES)
        yield {PIXELS: 0.02, FEATURES: 0.5}
        yield {PIXELS: 0.5, FEATURES: 1.0}


HIDDEN = ("label", "features from pixels", "pixels from features", "pixels", "features")


def _hidden(condition: Condition) -> Tensor:
    """Per row, what the network does not see: bool [b, 5] in the order of `HIDDEN`."""
    none = torch.zeros_like(condition.labels, dtype=torch.bool)
    blocked = [condition.blocked.get(edge, none) for edge in ((PIXELS, FEATURES), (FEATURES, PIXELS))]
    nulled = [condition.nulled.get(stream, none) for stream in (PIXELS, FEATURES)]
    return torch.stack([condition.labels == CLASSES, *blocked, *nulled], 1)


def _conditional(branches: Mapping[str, Condition], labels: Tensor) -> str:
    for name, condition in branches.items():
        if name != WEAK and torch.equal(condition.labels, labels) and not _hidden(condition).any():
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
        require(set(edge) <= {PIXELS, FEATURES} and edge[0] != edge[1], f"{what}: {edge} is no edge of the streams")
        blocks = guidance.needs_blocking or not rows.any()
        require(blocks, f"{what}: it blocks {edge} without saying needs_blocking")
    for masks in (condition.nulled, condition.supervised):
        for stream, rows in masks.items():
            require(stream in (PIXELS, FEATURES), f"{what}: {stream} is no stream of the run")
            require(
                rows.dtype == torch.bool and rows.shape == labels.shape, f"{what}: a mask of {stream} is no bool [b]"
            )


@law(GuidanceCase)
def conditions_are_valid(case: GuidanceCase) -> None:
    """Labels are the given ones or null, masks are bool [b], edges are blocked only where it says `needs_blocking`; the
    given labels stay as they are.
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


@law(GuidanceCase, once=True)
def drops_at_the_set_rate(case: GuidanceCase) -> None:
    """With option `drop` = p a share p of the samples has something hidden, each by itself; 0 and 1 are certain."""
    labels = case.labels(4000)
    for p in (0.0, 0.3, 1.0):
        guidance = case.having(drop=p).build()
        share = _hidden(guidance.condition(labels, case.generator(2))).any(1).float().mean().item()
        # five standard errors of 4,000 draws
        require(
            abs(share - p) <= 5 * (p * (1 - p) / 4000) ** 0.5, f"drop {p} hides something in {share:.3f} of the samples"
        )
    first, second = (_hidden(case.having(drop=0.5).build().condition(labels, case.generator(k))) for k in (3, 4))
    require(not torch.equal(first, second), "two generators hide the same samples")


@law(GuidanceCase, once=True)
def every_branch_is_trained(case: GuidanceCase) -> None:
    """What a branch of sampling hides has been hidden in training too; samples from which nothing is hidden are supervised
    in every stream, and a stream that the network is not shown is not.
    """
    case = case.having(drop=0.5) if "drop" in attrs.fields_dict(type(case.config)) else case
    guidance, labels = case.build(), case.labels(4000)
    condition = guidance.condition(labels, case.generator(2))
    trained = {tuple(row) for row in _hidden(condition).tolist()}
    for times in case.times():
        for name, branch in guidance.branches(labels[:3], times).items():
            for row in _hidden(branch).tolist() if name != WEAK else ():
                hides = [part for part, hidden in zip(HIDDEN, row, strict=True) if hidden]
                require(tuple(row) in trained, f"branch {name} hides {hides or 'nothing'}, which training never does")
    whole = ~_hidden(condition).any(1)
    for stream, rows in condition.supervised.items():
        require(rows[whole].all(), f"supervised leaves out {stream} in samples from which nothing is hidden")
    for stream, rows in condition.nulled.items():
        counted = condition.supervised.get(stream, torch.ones_like(rows))
        require(not (rows & counted).any(), f"{stream} is supervised in samples in which it is not shown")


@law(GuidanceCase)
def equal_branches_change_nothing(case: GuidanceCase) -> None:
    """Where all branches agree, the guided velocity is theirs; its streams keep shape and dtype."""
    guidance, labels = case.build(), case.labels()
    for times in case.times():
        branches = guidance.branches(labels, times)
        velocity = next(iter(case.velocities(branches, 3).values()))
        guided = guidance.combine({name: velocity for name in branches}, times)
        require_same(velocity, guided, f"equal branches at {times}")
        wrong = [name for name in guided if guided[name].dtype != velocity[name].dtype]
        require(not wrong, f"the dtype of {', '.join(wrong)} changes at {times}")


@law(GuidanceCase)
def one_branch_is_conditional(case: GuidanceCase) -> None:
    """There is always the conditional branch; where it is the only one it is the result, to the bit."""
    guidance, labels = case.build(), case.labels()
    for times in case.times():
        branches = guidance.branches(labels, times)
        name = _conditional(branches, labels)
        if len(branches) == 1:
            velocities = case.velocities(branches, 3)
            require_same(velocities[name], guidance.combine(velocities, times), f"one branch at {times}", 0.0)


@law(GuidanceCase)
def scale_1_is_conditional(case: GuidanceCase) -> None:
    """With all scales 1 the conditional branch alone is evaluated, and is the result."""
    if not case.scales:
        does_not_apply("its Config has no scale")
    case = case.having(**dict.fromkeys(case.scales, 1.0))
    guidance, labels = case.build(), case.labels()
    for times in case.times():
        branches = guidance.branches(labels, times)
        require(len(branches) == 1, f"at scale 1 the branches {', '.join(branches)} are evaluated at {times}")
        velocities = case.velocities(branches, 3)
        name = _conditional(branches, labels)
        require_same(velocities[name], guidance.combine(velocities, times), f"scale 1 at {times}", 0.0)


@law(GuidanceCase)
def guides_away_from_the_null_branch(case: GuidanceCase) -> None:
    """With a scale s above 1, two branches give null + s * (conditional - null) inside the interval, for each stream with
    its own scale.
    """
    if "scale" not in case.scales:
        does_not_apply("its Config has no scale")
    options = {name: 2.0 + i for i, name in enumerate(case.scales)}
    guidance, labels = case.having(**options).build(), case.labels()
    own = options.get("feature_scale", options["scale"])
    times = {PIXELS: 0.5, FEATURES: 0.5}
    branches = guidance.branches(labels, times)
    if len(branches) != 2:
        does_not_apply(f"it has {len(branches)} branches")
    name = _conditional(branches, labels)
    velocities = case.velocities(branches, 3)
    (null,) = (velocities[branch] for branch in branches if branch != name)  # or the weak branch
    guided = guidance.combine(velocities, times)
    for stream, scale in ((PIXELS, options["scale"]), (FEATURES, own)):
        expected = null[stream] + scale * (velocities[name][stream] - null[stream])
        require_same(expected, guided[stream], f"{stream} at scale {scale}")


@law(GuidanceCase)
def interval_is_respected(case: GuidanceCase) -> None:
    """With options `low` and `high`, velocities are guided only at times between them (0 includes the first step), each
    stream by its own time; outside of it no second branch is evaluated.
    """
    guidance, labels = case.having(scale=2.0, low=0.2, high=0.8).build(), case.labels()

    def guided_streams(guidance: Guidance, times: dict[str, float]) -> set[str]:
        branches = guidance.branches(labels, times)
        velocities = case.velocities(branches, 3)
        expected, found = velocities[_conditional(branches, labels)], guidance.combine(velocities, times)
        changed = {name for name in found if not torch.equal(found[name], expected[name])}
        require(changed or len(branches) == 1, f"at {times} nothing is guided, yet {len(branches)} branches are run")
        return changed

    for t, inside in ((0.0, False), (0.1, False), (0.2, False), (0.25, True), (0.75, True), (0.8, False), (1.0, False)):
        found = guided_streams(guidance, {PIXELS: t, FEATURES: t})
        require(bool(found) == inside, f"t = {t} in the interval (0.2, 0.8): {'not ' if inside else ''}guided")
    found = guided_streams(guidance, {PIXELS: 0.5, FEATURES: 0.9})
    require(FEATURES not in found and PIXELS in found, f"pixels at 0.5, features at 0.9: guided are {sorted(found)}")
    found = guided_streams(guidance, {PIXELS: 0.1, FEATURES: 0.5})
    require(PIXELS not in found and FEATURES in found, f"pixels at 0.1, features at 0.5: guided are {sorted(found)}")
    guidance = case.having(scale=2.0, low=0.0, high=0.8).build()
    require(guided_streams(guidance, {PIXELS: 0.0, FEATURES: 0.0}), "low = 0 leaves the first step unguided")


@law(GuidanceCase)
def null_keeps_the_shape(case: GuidanceCase) -> None:
    """What the network is shown instead of a stream has its shape and dtype, and does not depend on it."""
    guidance = case.build()
    streams = case.velocities({"any": Condition(labels=case.labels())}, 3)["any"]
    for name in guidance.condition(case.labels(), case.generator(2)).nulled:
        x_t = streams[name]
        for dtype in (torch.float32, torch.bfloat16):
            shown = guidance.null(name, x_t.to(dtype))
            require(shown.shape == x_t.shape, f"null({name}) has the shape {tuple(shown.shape)}")
            require(shown.dtype == dtype, f"null({name}) is {shown.dtype} for {dtype}")
            require(torch.equal(shown, guidance.null(name, -2 * x_t.to(dtype))), f"null({name}) depends on it")


@law(GuidanceCase)
def combining_keeps_rows_and_dtypes(case: GuidanceCase) -> None:
    """combine() changes no velocity that it is given, mixes no rows, and keeps bfloat16 and float64."""
    guidance, labels = case.build(), case.labels()
    for times in ({PIXELS: 0.5, FEATURES: 0.5}, {PIXELS: 0.3, FEATURES: 0.7}):
        branches = guidance.branches(labels, times)
        velocities, other = case.velocities(branches, 3), case.velocities(branches, 4)
        before = clone(velocities)
        guided = guidance.combine(velocities, times)
        require_same(velocities, before, "a given velocity was changed", 0.0)
        mixed = guidance.combine(with_rows(velocities, other, torch.arange(len(labels)) > 0), times)
        batch = len(labels)
        require_same(rows_of(guided, 0, batch), rows_of(mixed, 0, batch), "row 0 changes with other rows")
        for dtype in (torch.bfloat16, torch.float64):
            for name, leaf in leaves(guidance.combine(cast(velocities, dtype), times)).items():
                require(leaf.dtype == dtype, f"{name} is {leaf.dtype} for velocities of {dtype}")


@law(GuidanceCase)
def sampling_stays_on_the_device(case: GuidanceCase) -> None:
    """branches() and combine() run wholly on the device of labels and velocities."""
    guidance, labels = case.build().to("meta"), case.labels().to("meta")
    for times in case.times():
        try:
            branches = guidance.branches(labels, times)
            guided = guidance.combine(on_meta(case.velocities(branches, 3)), times)
        except (RuntimeError, NotImplementedError) as error:
            require(False, f"with everything on another device: {' '.join(str(error).split())[:200]}")
            raise
        for name, leaf in leaves({"branches": branches, "combined": guided}).items():
            require(leaf.is_meta, f"{name} lies on {leaf.device} for inputs on another device")
