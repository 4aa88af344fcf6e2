"""Laws for the sampling half of guidance rules, and for the meaning of their options."""

import torch
from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition, Streams
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.guidance import WEAK, GuidanceCase, conditional, hidden
from vco.testing.laws.guidance_options import MIDDLE, guided_streams, hiding_nothing, meaning_of, with_options
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
    """With all scales 1 the conditional branch alone is evaluated, and is the result.

    A scale is an option with which the velocity grows evenly.
    """
    scales = meaning_of(case).scales
    if not scales:
        does_not_apply("the velocity grows evenly with none of its options")
    alone = with_options(case, **dict.fromkeys(scales, 1.0))
    require(alone is not None, f"{', '.join(scales)} cannot be 1, at which guidance is off")
    assert alone is not None
    guidance, labels = alone.build(), case.labels()
    for times in case.times():
        branches = guidance.branches(labels, times)
        require(len(branches) == 1, f"at scale 1 the branches {', '.join(branches)} are evaluated at {times}")
        velocities = case.velocities(branches, 3)
        name = conditional(branches, labels)
        require_same(velocities[name], guidance.combine(velocities, times), f"scale 1 at {times}", 0.0)


@law(GuidanceCase)
def guides_away_from_the_other_branch(case: GuidanceCase) -> None:
    """Of two branches, the larger the scale the further the velocity is from the other towards the conditional one."""
    scales = meaning_of(case).scales
    found: list[Streams] = []
    ways: Streams = {}
    for value in (2.0, 3.0):
        stronger = with_options(case, **dict.fromkeys(scales, value))
        if not scales or stronger is None:
            does_not_apply("the velocity grows evenly with none of its options")
        guidance, labels = stronger.build(), case.labels()
        branches = guidance.branches(labels, MIDDLE)
        if len(branches) != 2:
            does_not_apply(f"it has {len(branches)} branches")
        velocities, name = case.velocities(branches, 3), conditional(branches, labels)
        (other,) = (velocities[branch] for branch in branches if branch != name)
        ways = {stream: velocities[name][stream] - other[stream] for stream in other}
        found.append(guidance.combine(velocities, MIDDLE))
    for stream, way in ways.items():
        step = found[1][stream] - found[0][stream]
        along = (step * way).sum().item()
        require(along > 0, f"with a larger scale {stream} does not move away from the other branch")


@law(GuidanceCase)
def branches_differ(case: GuidanceCase) -> None:
    """Each branch beside the conditional one is told or shown something else, unless another model evaluates it.

    Two equal branches guide nowhere, and cost twice.
    """
    guidance, labels = case.build(), case.labels()
    for times in case.times():
        branches = guidance.branches(labels, times)
        name = conditional(branches, labels)
        for other in branches.keys() - {name, WEAK}:
            ones, others = _told(branches[name]), _told(branches[other])
            same = ones.keys() == others.keys() and all(torch.equal(x, others[path]) for path, x in ones.items())
            require(not same, f"at {times} the branch {other} is told and shown what the branch {name} is")


def _told(condition: Condition) -> dict[str, Tensor]:
    """What a network is told and what is hidden from it; masks that hide nothing are left out."""
    told = {path: x for path, x in leaves(condition).items() if not path.startswith("supervised")}
    return {path: x for path, x in told.items() if x.dtype != torch.bool or x.any()}


@law(GuidanceCase)
def interval_is_respected(case: GuidanceCase) -> None:
    """Where options bound the times that are guided, others are not; each stream goes by its own time.

    At first settings the bounds themselves are not guided; another option may say that they are. A lower bound of 0
    includes the first step. Outside of the interval no second branch is evaluated.
    """
    meaning = meaning_of(case)
    if not (meaning.lower or meaning.upper):
        does_not_apply("none of its options bounds the times that are guided")
    low, high = (0.2 if meaning.lower else -1.0), (0.8 if meaning.upper else 2.0)
    bounds = {**dict.fromkeys(meaning.lower, low), **dict.fromkeys(meaning.upper, high)}
    bounded = with_options(case, **dict.fromkeys(meaning.scales, 2.0), **bounds)
    require(bounded is not None, f"the bounds {', '.join(bounds)} cannot be {low:g} and {high:g}")
    assert bounded is not None
    for t in (0.0, 0.1, 0.2, 0.25, 0.75, 0.8, 0.9):
        inside = low < t < high
        if case.varied and t in (low, high):
            continue
        streams, branches = guided_streams(bounded, {IMAGE: t, FEATURES: t})
        require(bool(streams) == inside, f"t = {t} in ({low:g}, {high:g}): {'not ' if inside else ''}guided")
        require(streams or branches == 1, f"at t = {t} nothing is guided, yet {branches} branches are run")
    both = guided_streams(bounded, {IMAGE: 0.5, FEATURES: 0.5})[0]
    for other in (0.9 if meaning.upper else 0.1,):
        found = guided_streams(bounded, {IMAGE: 0.5, FEATURES: other})[0]
        require(found == both - {FEATURES}, f"image at 0.5, features at {other}: guided are {sorted(found)}")
        found = guided_streams(bounded, {IMAGE: other, FEATURES: 0.5})[0]
        require(found == both - {IMAGE}, f"image at {other}, features at 0.5: guided are {sorted(found)}")
    if meaning.lower:
        everything = with_options(bounded, **dict.fromkeys(meaning.lower, 0.0))
        require(everything is not None, f"{', '.join(meaning.lower)} cannot be 0, which is noise")
        assert everything is not None
        require(guided_streams(everything, {IMAGE: 0.0, FEATURES: 0.0})[0], "a bound of 0 leaves the first step out")


@law(GuidanceCase, once=True)
def shares_are_kept(case: GuidanceCase) -> None:
    """An option that hides nothing at 0 and something from every sample at 1 hides it from a share p at p.

    From each sample by itself: another generator hides it from other ones.
    """
    shares = meaning_of(case).shares
    if not shares:
        does_not_apply("none of its options is a share of the samples")
    for name in shares:
        some = with_options(hiding_nothing(case), **{name: 0.3})
        require(some is not None, f"{name} cannot be 0.3")
        assert some is not None
        share = some.share_hidden(4000)
        # five standard errors of 4,000 draws
        error = 5 * (0.3 * 0.7 / 4000) ** 0.5
        require(abs(share - 0.3) <= error, f"{name} 0.3 hides something from {share:.3f} of the samples")
        labels = case.labels(4000)
        first, second = (hidden(some.build().condition(labels, case.generator(k))) for k in (3, 4))
        require(not torch.equal(first, second), "two generators hide the same samples")


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
    for times in ({IMAGE: 0.5, FEATURES: 0.5}, {IMAGE: 0.3, FEATURES: 0.7}):
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
