"""Conditions keep all they know when rows are chosen and when branches are stacked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import pytest
import torch
from torch import Tensor

from vco.api import FEATURES, IMAGE, Condition

EDGE = (IMAGE, FEATURES)


@dataclass(frozen=True, kw_only=True)
class Told(Condition):
    """What a method knows beside."""

    layout: Tensor
    regions: Mapping[str, Tensor] = field(default_factory=dict)
    title: str = ""


def full(rows: int = 4) -> Told:
    """A condition in which every field says something else in every row."""
    count = torch.arange(rows)
    return Told(
        labels=count,
        blocked={EDGE: count % 2 == 0},
        nulled={FEATURES: count % 3 == 0},
        supervised={FEATURES: count > 1},
        context={"caption": torch.stack([count, count + 10], 1), "tokens": torch.rand(rows, 2, 3)},
        until={IMAGE: count / 10, FEATURES: torch.rand(rows, 5)},
        layout=10.0 * count[:, None].expand(rows, 6),
        regions={"face": count.float()},
        title="as it was",
    )


def rows_of(value: object) -> list[Tensor]:
    """All tensors in a field."""
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in rows_of(item)]
    return [value] if isinstance(value, Tensor) else []


def test_choosing_rows_chooses_them_in_every_field_also_of_a_subclass() -> None:
    whole = full()
    part = whole.map(lambda tensor: tensor[1:3])
    assert type(part) is Told
    for known in fields(whole):
        before, after = rows_of(getattr(whole, known.name)), rows_of(getattr(part, known.name))
        assert len(before) == len(after) == {"context": 2, "until": 2, "title": 0}.get(known.name, 1)
        assert all(torch.equal(b[1:3], a) for b, a in zip(before, after, strict=True)), known.name
    assert part.context.keys() == {"caption", "tokens"}
    assert part.title == "as it was"


def test_stacking_the_parts_of_a_condition_gives_the_condition_in_every_field() -> None:
    whole = full()
    parts = [whole.map(lambda tensor, at=at: tensor[at]) for at in (slice(0, 1), slice(1, 4))]
    again = Condition.concatenate(parts)
    assert type(again) is Told
    for known in fields(whole):
        before, after = rows_of(getattr(whole, known.name)), rows_of(getattr(again, known.name))
        assert len(before) == len(after)
        assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True)), known.name
    assert again.title == "as it was"


def test_what_a_part_does_not_say_is_what_its_absence_means() -> None:
    silent = Condition(labels=torch.tensor([7, 8]))
    known = Condition(
        labels=torch.tensor([1]),
        blocked={EDGE: torch.tensor([True])},
        nulled={FEATURES: torch.tensor([True])},
        supervised={FEATURES: torch.tensor([False])},
        context={"caption": torch.tensor([[3.0, 4.0]])},
    )
    stacked = Condition.concatenate([silent, known])
    assert stacked.labels.tolist() == [7, 8, 1]
    assert stacked.blocked[EDGE].tolist() == [False, False, True]
    assert stacked.nulled[FEATURES].tolist() == [False, False, True]
    assert stacked.supervised[FEATURES].tolist() == [True, True, False]
    assert stacked.context["caption"].tolist() == [[0, 0], [0, 0], [3, 4]]
    assert stacked.context["caption"].dtype == torch.float32


def test_parts_that_know_and_do_not_know_where_a_step_goes_cannot_be_stacked() -> None:
    here = Condition(labels=torch.tensor([0]))
    on_the_way = Condition(labels=torch.tensor([0]), until={IMAGE: torch.tensor([0.5])})
    with pytest.raises(ValueError, match="some conditions know the time that the step goes to"):
        Condition.concatenate([here, on_the_way])


def test_parts_of_different_classes_cannot_be_stacked() -> None:
    with pytest.raises(ValueError, match="different classes"):
        Condition.concatenate([full(), Condition(labels=torch.tensor([0]))])
