from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Int, UInt8
from torch import Tensor

from vco.api import ImageSet, UserError
from vco.data import Order, chunks, read, to_float, to_uint8
from vco.settings import TrainConfig


class Squares(ImageSet):
    """Image i is filled with i; augmented, noise is added."""

    def __init__(self, size: int = 20) -> None:
        self.labels: Int[Tensor, " size"] = torch.arange(size) % 5

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        plain = torch.full((1, 4, 4), index, dtype=torch.uint8)
        if generator is None:
            return plain
        return plain + torch.randint(0, 100, plain.shape, generator=generator, dtype=torch.uint8)


class Unreadable(Squares):
    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        raise UserError(f"image {index} cannot be read; replace it")


def shuffled_labels(classes: int, each: int) -> Tensor:
    return torch.arange(classes).repeat(each)[torch.randperm(classes * each, generator=torch.Generator())]


# ---------------------------------------------------------------------------------------------------------------- order


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


# -------------------------------------------------------------------------------------------------------------- reading


def test_readers_give_the_same_images_as_none() -> None:
    batches = [[(3, 0), (1, 0)], [(0, 1)], [(3, 1), (2, 7)]]
    alone, helped = (list(read(Squares(), batches, TrainConfig(workers=workers), 0)) for workers in (0, 2))
    assert len(alone) == 3
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_augmentation_is_a_function_of_seed_epoch_and_index() -> None:
    def image(index: int, epoch: int, seed: int = 0, before: int = 0) -> list[int]:
        batch = [(9, 9)] * before + [(index, epoch)]
        return next(read(Squares(), [batch], TrainConfig(), seed))[-1].flatten().tolist()

    assert image(1, 0) == image(1, 0, before=3)
    assert image(1, 0) != image(1, 1)
    assert image(1, 0) != image(1, 0, seed=1)
    assert [value - 2 for value in image(2, 0)] != [value - 1 for value in image(1, 0)]


def test_without_augmentation_images_come_as_they_are() -> None:
    assert next(read(Squares(), chunks([4, 2], 2), TrainConfig())).flatten(1).unique(dim=1).flatten().tolist() == [4, 2]


def test_reading_leaves_the_ambient_generator_alone() -> None:
    state = torch.get_rng_state()
    list(read(Squares(), chunks(list(range(6)), 2), TrainConfig(workers=1), 0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_sentence_also_from_a_reader_process(workers: int) -> None:
    with pytest.raises(UserError) as caught:
        list(read(Unreadable(), [[(7, 0)]], TrainConfig(workers=workers)))
    assert str(caught.value) == "image 7 cannot be read; replace it"


def test_chunks_run_once_through_all_indices() -> None:
    assert chunks([5, 6, 7], 2) == [[(5, 0), (6, 0)], [(7, 0)]]


# --------------------------------------------------------------------------------------------------------------- pixels


def test_every_gray_level_survives_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(levels)
    assert (floats.min(), floats.max(), floats.dtype) == (-1.0, 1.0, torch.float32)
    assert torch.equal(to_uint8(floats), levels)


def test_values_outside_the_range_are_clipped() -> None:
    assert to_uint8(torch.tensor([-3.0, -1.001, 1.001, 9.0])).tolist() == [0, 0, 255, 255]
