"""Laws for the sampling half of guidance rules."""

import torch

from vco.api import FEATURES, PIXELS, Condition, Guidance
from vco.testing.guidance import GuidanceCase, conditional
from vco.testing.law import does_not_apply, law, require
from vco.testing.tensors import cast, clone, leaves, on_meta, require_same, rows_of, with_rows


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
        name = conditional(branches, labels)
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
        name = conditional(branches, labels)
        require_same(velocities[name], guidance.combine(velocities, times), f"scale 1 at {times}", 0.0)


@law(GuidanceCase)
def guides_away_from_the_null_branch(case: GuidanceCase) -> None:
    """Two branches give null + scale * (conditional - null), each stream with its own scale.

    At scales above 1, inside the interval.
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
    name = conditional(branches, labels)
    velocities = case.velocities(branches, 3)
    (null,) = (velocities[branch] for branch in branches if branch != name)  # or the weak branch
    guided = guidance.combine(velocities, times)
    for stream, scale in ((PIXELS, options["scale"]), (FEATURES, own)):
        expected = null[stream] + scale * (velocities[name][stream] - null[stream])
        require_same(expected, guided[stream], f"{stream} at scale {scale}")


@law(GuidanceCase)
def interval_is_respected(case: GuidanceCase) -> None:
    """Only times between `low` and `high` are guided, each stream by its own time.

    `low` = 0 includes the first step. Outside of the interval no second branch is evaluated.
    """
    guidance, labels = case.having(scale=2.0, low=0.2, high=0.8).build(), case.labels()

    def guided_streams(guidance: Guidance, times: dict[str, float]) -> set[str]:
        branches = guidance.branches(labels, times)
        velocities = case.velocities(branches, 3)
        expected, found = velocities[conditional(branches, labels)], guidance.combine(velocities, times)
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
