import time
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vco.api import Blocks, UserError
from vco.data.order import Order


def shuffled_labels(classes: int, each: int) -> Tensor:
    return torch.arange(classes).repeat(each)[torch.randperm(classes * each, generator=torch.Generator())]


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 40), batch=st.integers(1, 50), epochs=st.integers(1, 3), seed=st.integers(0, 5))
def test_plain_order_shows_every_image_once_in_each_epoch(size: int, batch: int, epochs: int, seed: int) -> None:
    order = Order(torch.zeros(size, dtype=torch.long), seed=seed, batch_size=batch)
    steps = -(-size * epochs // batch)
    index = torch.cat([order.batch(step)[0] for step in range(steps)])[: size * epochs]
    epoch = torch.cat([order.batch(step)[1] for step in range(steps)])[: size * epochs]
    assert epoch.tolist() == sorted(list(range(epochs)) * size)
    for number in range(epochs):
        assert sorted(index[epoch == number].tolist()) == list(range(size))


def test_epochs_are_shuffled_each_in_its_own_way() -> None:
    order = Order(torch.zeros(100, dtype=torch.long), seed=0, batch_size=100)
    first, second = order.batch(0)[0].tolist(), order.batch(1)[0].tolist()
    assert first != sorted(first)
    assert first != second


@pytest.mark.parametrize("per_class", [0, 4])
def test_a_batch_depends_on_seed_and_step_and_not_on_what_was_asked_before(per_class: int) -> None:
    labels = shuffled_labels(6, 11)
    orders = [Order(labels, seed=seed, batch_size=12, samples_per_class=per_class) for seed in (3, 3, 4)]
    forth = [orders[0].batch(step) for step in range(40)]
    back = [orders[1].batch(step) for step in reversed(range(40))][::-1]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(forth, back, strict=True))
    assert any(not torch.equal(orders[2].batch(step)[0], forth[step][0]) for step in range(3))


@settings(deadline=None, max_examples=40)
@given(data=st.data(), classes=st.integers(1, 7), size=st.integers(1, 5), each=st.integers(1, 9))
def test_groups_are_whole_contiguous_and_of_distinct_classes(
    data: st.DataObject, classes: int, size: int, each: int
) -> None:
    groups = data.draw(st.integers(1, classes))
    labels = shuffled_labels(classes, each)
    order = Order(labels, seed=0, batch_size=groups * size, samples_per_class=size)
    for step in range(10):
        of_groups = labels[order.batch(step)[0]].view(groups, size)
        assert (of_groups == of_groups[:, :1]).all()
        assert len(set(of_groups[:, 0].tolist())) == groups


@pytest.mark.parametrize(("classes", "groups"), [(10, 10), (10, 5), (10, 4), (7, 3), (5, 1)])
def test_every_class_comes_equally_often_also_where_groups_do_not_divide_the_classes(classes: int, groups: int) -> None:
    labels = shuffled_labels(classes, 9)
    order = Order(labels, seed=0, batch_size=groups * 2, samples_per_class=2)
    steps = 3 * classes  # whole turns for every number of groups
    seen = Counter(int(label) for step in range(steps) for label in labels[order.batch(step)[0]])
    assert seen == dict.fromkeys(range(classes), steps * groups * 2 // classes)


@pytest.mark.parametrize("groups", [10, 4])
def test_grouped_order_shows_every_image_of_a_class_once_in_each_of_its_epochs(groups: int) -> None:
    labels = shuffled_labels(10, 6)
    order = Order(labels, seed=1, batch_size=groups * 2, samples_per_class=2)
    batches = [order.batch(step) for step in range(3 * 10)]  # 10 classes x 6 images at least once
    seen = Counter(pair for index, epoch in batches for pair in zip(index.tolist(), epoch.tolist(), strict=True))
    assert set(seen.values()) == {1}
    for epoch in range(3 * groups * 2 // 6):
        assert sorted(index for index, at in seen if at == epoch) == list(range(60))


def test_more_groups_than_classes_with_images_are_refused() -> None:
    labels = torch.tensor([0, 0, 2, 2])  # class 1 has no images
    with pytest.raises(UserError, match=r"3 class groups needs as many classes with images.*has 2"):
        Order(labels, seed=0, batch_size=6, samples_per_class=2)


# -------------------------------------------------------------------------------------------------------------- blocks


def blocks_order(sizes: list[int], window: int, seed: int = 0, batch: int = 5) -> Order:
    labels = torch.zeros(sum(sizes), dtype=torch.long)
    return Order(labels, seed=seed, batch_size=batch, blocks=Blocks(sizes=sizes, window=window))


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    window=st.integers(1, 10),
    batch=st.integers(1, 50),
    epochs=st.integers(1, 3),
)
def test_blocks_show_every_image_once_in_each_epoch(sizes: list[int], window: int, batch: int, epochs: int) -> None:
    order, size = blocks_order(sizes, window, batch=batch), sum(sizes)
    found = [order.batch(step) for step in range(-(-size * epochs // batch))]
    index, epoch = (torch.cat(parts)[: size * epochs] for parts in zip(*found, strict=True))
    assert epoch.tolist() == sorted(list(range(epochs)) * size)
    for number in range(epochs):
        assert sorted(index[epoch == number].tolist()) == list(range(size))


def test_images_of_a_window_come_together_and_are_mixed() -> None:
    sizes = [7, 5, 9, 6, 8, 4]
    block_of = torch.repeat_interleave(torch.arange(6), torch.tensor(sizes))
    order = blocks_order(sizes, window=2, seed=1, batch=sum(sizes))
    runs: list[frozenset[int]] = []
    for epoch in range(4):
        came = block_of[order.batch(epoch)[0]].tolist()
        while came:
            together = frozenset(list(dict.fromkeys(came))[:2])
            count = sum(sizes[block] for block in together)
            assert set(came[:count]) == together
            assert came[:count] != sorted(came[:count], key=came.index)  # mixed, not one block after the other
            runs.append(together)
            came = came[count:]
    assert len({frozenset(runs[first : first + 3]) for first in (0, 3, 6, 9)}) >= 3  # others meet in other epochs


def test_a_batch_of_blocks_depends_on_seed_and_step_and_not_on_what_was_asked_before() -> None:
    orders = [blocks_order([7, 5, 9, 6, 8, 4], 2, seed) for seed in (3, 3, 4)]
    forth = [orders[0].batch(step) for step in range(30)]
    back = [orders[1].batch(step) for step in reversed(range(30))][::-1]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(forth, back, strict=True))
    assert any(not torch.equal(orders[2].batch(step)[0], forth[step][0]) for step in range(3))


@pytest.mark.parametrize("batch", [3, 10, 40])
def test_the_sequence_of_images_does_not_depend_on_the_size_of_batches(batch: int) -> None:
    def first(size: int) -> list[int]:
        order = blocks_order([7, 5, 9, 6, 8, 4], 3, batch=size)
        return torch.cat([order.batch(step)[0] for step in range(-(-120 // size))])[:120].tolist()

    assert first(batch) == first(1)


def test_a_step_far_away_is_found_at_once_among_millions_of_images() -> None:
    order = blocks_order([1000] * 5000, window=4, batch=256)
    began = time.perf_counter()
    index, epoch = order.batch(10**9)
    assert time.perf_counter() - began < 2  # drawing all windows up to there would take days
    assert epoch.unique().tolist() == [10**9 * 256 // (5000 * 1000)]
    assert len(index.unique()) == 256


def test_class_groups_and_blocks_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"leave --data\.window out, or set --train\.samples-per-class 0"):
        Order(
            torch.zeros(4, dtype=torch.long),
            seed=0,
            batch_size=2,
            samples_per_class=2,
            blocks=Blocks(sizes=[2, 2], window=1),
        )
