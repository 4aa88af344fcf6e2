from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vco.api import UserError
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
